"""Memberships of rooms, for users of all servers. Owns `memberships` and `room_servers`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId, RoomId, ServerName, UserId
from homeserver import limits
from homeserver.storage.database import Connection, Database


class MembershipRow(msgspec.Struct, frozen=True):
    """One user's membership of one room, to write."""

    room_row_id: int
    user_id: str
    membership: str
    event_id: str
    sender: str
    position: int
    stripped: bytes | None = None
    event: bytes | None = None
    version: str | None = None
    via: str | None = None


class UserMembershipRow(msgspec.Struct, frozen=True, gc=False):
    """A user's membership of a room, with the stripped state of an invite or knock."""

    room_id: RoomId
    membership: str
    event_id: EventId
    sender: UserId
    position: int
    forgotten: bool
    stripped: bytes | None
    via: ServerName | None


class OutsideMembershipRow(msgspec.Struct, frozen=True, gc=False):
    """A membership with its raw PDU (`event`) and room version, if it was imported in an
    exchange."""

    membership: str
    event_id: EventId
    sender: UserId
    stripped: bytes | None
    event: bytes | None
    version: str | None


class PlacedOutsideRow(msgspec.Struct, frozen=True, gc=False):
    """The newest membership of a local user in a room that this server isn't in, with its raw PDU
    and its position in the log."""

    position: int
    user_id: UserId
    room_id: RoomId
    membership: str
    event_id: EventId
    sender: UserId
    stripped: bytes | None
    event: bytes
    version: str
    via: str | None


class UserRoomRow(msgspec.Struct, frozen=True, gc=False):
    """A room of a user."""

    user_id: UserId
    room_id: RoomId


_COLUMNS = MembershipRow.__struct_fields__


async def upsert(connection: Connection, rows: Sequence[MembershipRow]) -> None:
    """Writes memberships; the newest one counts, and a new one isn't forgotten."""
    newest = {(row.room_row_id, row.user_id): row for row in rows}
    values = list(newest.values())
    await connection.execute(
        "INSERT INTO memberships (room_row_id, user_id, membership, event_id, sender, position,"
        " stripped, event, version, via) SELECT * FROM unnest($1::bigint[], $2::text[],"
        " $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::bytea[], $9::text[],"
        " $10::text[])"
        " ON CONFLICT (room_row_id, user_id) DO UPDATE SET membership = excluded.membership,"
        " event_id = excluded.event_id, sender = excluded.sender, position = excluded.position,"
        " stripped = excluded.stripped, event = excluded.event, version = excluded.version,"
        " via = excluded.via, forgotten = false",
        *([getattr(row, name) for row in values] for name in _COLUMNS),
    )


async def servers_joined(connection: Connection, rows: Sequence[tuple[int, str, int]]) -> None:
    """Writes rows of (room_row_id, server, position): the server's first user joined."""
    await connection.execute(
        "INSERT INTO room_servers (room_row_id, server, joined_position)"
        " SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[]) ON CONFLICT DO NOTHING",
        *([row[i] for row in rows] for i in range(3)),
    )


async def servers_left(connection: Connection, rows: Sequence[tuple[int, str, int]]) -> None:
    """Writes rows of (room_row_id, server, position): the server's last user left. Each ends the
    stays that began before it. *Precondition:* the joins of the batch are written, as one of them
    may end in it; a server that is taken to stay would go on to be sent the room's events."""
    await connection.execute(
        "UPDATE room_servers s SET left_position = e.position FROM ("
        " SELECT r.room_row_id, r.server, r.joined_position, min(u.position) AS position"
        " FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS u (room_row_id, server, position)"
        " JOIN room_servers r USING (room_row_id, server)"
        " WHERE r.left_position IS NULL AND r.joined_position < u.position GROUP BY 1, 2, 3) e"
        " WHERE s.room_row_id = e.room_row_id AND s.server = e.server"
        " AND s.joined_position = e.joined_position",
        *([row[i] for row in rows] for i in range(3)),
    )


async def servers_reset(
    connection: Connection, room_row_id: int, servers: Sequence[str], position: int
) -> None:
    """Sets the servers in a room as a join found them: other servers have left."""
    await connection.execute(
        "UPDATE room_servers SET left_position = $3 WHERE room_row_id = $1"
        " AND left_position IS NULL AND NOT server = ANY($2::text[])",
        room_row_id,
        list(servers),
        position,
    )
    await connection.execute(
        "INSERT INTO room_servers (room_row_id, server, joined_position)"
        " SELECT $1, s, $3 FROM unnest($2::text[]) AS s WHERE NOT EXISTS (SELECT FROM"
        " room_servers r WHERE r.room_row_id = $1 AND r.server = s AND r.left_position IS NULL)",
        room_row_id,
        list(servers),
        position,
    )


_SHARES_ANOTHER = (
    "EXISTS (SELECT FROM memberships o JOIN room_servers r USING (room_row_id)"
    " WHERE o.user_id = c.state_key AND o.membership = 'join' AND o.room_row_id <> c.room_row_id"
    " AND o.position < c.position AND r.server = s.server AND r.left_position IS NULL)"
)


class MembershipTable:
    """The memberships of all rooms, and the servers in them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_user(self, user_id: str) -> list[UserMembershipRow]:
        """Returns all memberships of a user, with `room_id`."""
        rows = await self._database.fetch(
            "SELECT r.room_id, m.membership, m.event_id, m.sender, m.position, m.forgotten,"
            " m.stripped, m.via FROM memberships m JOIN rooms r USING (room_row_id)"
            " WHERE m.user_id = $1",
            user_id,
        )
        return [UserMembershipRow(*row) for row in rows]

    async def of_user_in(self, user_id: str, room_id: str) -> OutsideMembershipRow | None:
        """Returns one membership."""
        row = await self._database.fetchrow(
            "SELECT m.membership, m.event_id, m.sender, m.stripped, m.event, m.version"
            " FROM memberships m JOIN rooms r USING (room_row_id)"
            " WHERE m.user_id = $1 AND r.room_id = $2",
            user_id,
            room_id,
        )
        return None if row is None else OutsideMembershipRow(*row)

    async def outside_between(self, after: int, up_to: int) -> list[PlacedOutsideRow]:
        """Returns memberships of rooms that this server isn't in, at after < position <= up_to. A
        partial index has them, by position."""
        rows = await self._database.fetch(
            "SELECT m.position, m.user_id, r.room_id, m.membership, m.event_id, m.sender,"
            " m.stripped, m.event, m.version, m.via"
            " FROM memberships m JOIN rooms r USING (room_row_id)"
            " WHERE m.position > $1 AND m.position <= $2 AND m.event IS NOT NULL"
            " AND m.version IS NOT NULL",
            after,
            up_to,
        )
        return [PlacedOutsideRow(*row) for row in rows]

    async def of_users(self, user_ids: Sequence[str], membership: str) -> list[UserRoomRow]:
        """Returns the rooms in which users have a membership."""
        rows = await self._database.fetch(
            "SELECT m.user_id, r.room_id FROM memberships m JOIN rooms r USING (room_row_id)"
            " WHERE m.user_id = ANY($1::text[]) AND m.membership = $2",
            list(user_ids),
            membership,
        )
        return [UserRoomRow(*row) for row in rows]

    async def rooms_shared(self, user_ids: Sequence[str], own: str) -> list[UserRoomRow]:
        """Returns the rooms that users are joined to, of those with a joined user of `own`."""
        rows = await self._database.fetch(
            "SELECT m.user_id, r.room_id FROM memberships m JOIN rooms r USING (room_row_id)"
            " JOIN room_servers s USING (room_row_id)"
            " WHERE m.user_id = ANY($1::text[]) AND m.membership = 'join'"
            " AND s.server = $2 AND s.left_position IS NULL",
            list(user_ids),
            own,
        )
        return [UserRoomRow(*row) for row in rows]

    async def sharing(self, user_id: str, among: Sequence[str]) -> list[str]:
        """Returns those of some users who are joined, or invited, to a room that `user_id` is
        joined to.
        """
        rows = await self._database.fetch(
            "SELECT DISTINCT o.user_id FROM memberships m JOIN memberships o USING (room_row_id)"
            " WHERE m.user_id = $1 AND m.membership = 'join' AND o.user_id = ANY($2::text[])"
            " AND o.membership IN ('join', 'invite')",
            user_id,
            list(among),
        )
        return [row["user_id"] for row in rows]

    async def forget(self, user_id: str, room_id: str) -> None:
        """Marks a left room as forgotten."""
        await self._database.execute(
            "UPDATE memberships SET forgotten = true FROM rooms r"
            " WHERE memberships.room_row_id = r.room_row_id AND r.room_id = $2"
            " AND memberships.user_id = $1 AND memberships.membership IN ('leave', 'ban')",
            user_id,
            room_id,
        )

    async def import_members(self, rows: Sequence[MembershipRow]) -> None:
        """Writes memberships outside of the log, in pieces: those of other servers' users in a room
        that a local user is about to join. The newest counts; a repeat is harmless."""
        async with self._database.connection() as connection:
            for start in range(0, len(rows), limits.ROWS_WRITTEN_AT_ONCE):
                await upsert(connection, rows[start : start + limits.ROWS_WRITTEN_AT_ONCE])

    async def shares_room(self, own: str, server: str) -> bool:
        """Returns whether both servers have a joined user in some room."""
        found = await self._database.fetchval(
            "SELECT EXISTS (SELECT FROM room_servers s JOIN room_servers o USING (room_row_id)"
            " WHERE s.server = $2 AND s.left_position IS NULL"
            " AND o.server = $1 AND o.left_position IS NULL)",
            own,
            server,
        )
        return bool(found)

    async def servers_sharing(self, user_id: str, own: str) -> list[str]:
        """Returns the other servers in the rooms that a user is joined to."""
        rows = await self._database.fetch(
            "SELECT DISTINCT s.server FROM memberships m JOIN room_servers s USING (room_row_id)"
            " WHERE m.user_id = $1 AND m.membership = 'join'"
            " AND s.left_position IS NULL AND s.server <> $2",
            user_id,
            own,
        )
        return [row["server"] for row in rows]

    async def servers_shown(
        self, room_id: str, user_id: str, own: str, *, position: int
    ) -> list[str]:
        """Returns the servers in a room that shared no other with a local user before a join at a
        position."""
        rows = await self._database.fetch(
            "SELECT s.server FROM"
            " (SELECT room_row_id, $2::text AS state_key, $4::bigint AS position FROM rooms"
            "  WHERE room_id = $1) c JOIN room_servers s USING (room_row_id)"
            f" WHERE s.left_position IS NULL AND s.server <> $3 AND NOT {_SHARES_ANOTHER}",
            room_id,
            user_id,
            own,
            position,
        )
        return [row["server"] for row in rows]

    async def server_first_joined(self, room_row_id: int, server: str) -> int | None:
        """Returns the position at which a server was first in a room."""
        position: int | None = await self._database.fetchval(
            "SELECT min(joined_position) FROM room_servers WHERE room_row_id = $1 AND server = $2",
            room_row_id,
            server,
        )
        return position

    async def lagging_servers(self, own: str) -> dict[str, int]:
        """Returns servers that share or shared a room with us, and the newest position that may
        concern them: of an event, or of a change of the devices of a local user."""
        rows = await self._database.fetch(
            "WITH changed AS (SELECT m.room_row_id, max(c.position) AS position FROM memberships m"
            "  JOIN (SELECT user_id, max(position) AS position FROM device_list_changes"
            "   WHERE right(user_id, length($1) + 1) = ':' || $1 GROUP BY user_id) c"
            "  USING (user_id)"
            "  WHERE m.membership = 'join' GROUP BY m.room_row_id)"
            " SELECT s.server, max(CASE WHEN s.left_position IS NULL"
            "  THEN greatest(h.position, d.position) ELSE least(s.left_position, h.position) END)"
            " AS position FROM room_servers s JOIN room_heads h USING (room_row_id)"
            " LEFT JOIN changed d USING (room_row_id) WHERE s.server <> $1 GROUP BY s.server",
            own,
        )
        return {row["server"]: row["position"] for row in rows}

    async def device_changes_for(
        self, server: str, own: str, *, after: int, up_to: int, limit: int
    ) -> list[int]:
        """Returns positions of changes of devices of local users who now share a room with `server`
        that it was in at the time of the change: a server that came later requests the whole
        list.
        """
        rows = await self._database.fetch(
            "SELECT c.position FROM device_list_changes c"
            " WHERE c.position > $3 AND c.position <= $4"
            " AND right(c.user_id, length($2) + 1) = ':' || $2"
            " AND EXISTS (SELECT FROM memberships m JOIN room_servers s USING (room_row_id)"
            "  WHERE m.user_id = c.user_id AND m.membership = 'join' AND s.server = $1"
            "  AND s.left_position IS NULL AND s.joined_position < c.position)"
            " ORDER BY c.position LIMIT $5",
            server,
            own,
            after,
            up_to,
            limit,
        )
        return [row["position"] for row in rows]

    async def joins_shown_to(
        self, server: str, own: str, *, after: int, up_to: int, limit: int
    ) -> list[tuple[int, str]]:
        """Returns (position, user) of local users who shared no room with `server`, and joined one
        that it was and still is in; entries at one position may exceed `limit`. Reads a table of
        `state_changes`."""
        rows = await self._database.fetch(
            "SELECT c.position, c.state_key FROM room_servers s"
            " JOIN state_changes c USING (room_row_id)"
            " JOIN memberships m ON m.room_row_id = c.room_row_id AND m.user_id = c.state_key"
            "  AND m.membership = 'join'"
            " WHERE s.server = $1 AND s.left_position IS NULL AND s.joined_position <= c.position"
            " AND c.position > $3 AND c.position <= $4 AND c.type = 'm.room.member'"
            " AND c.membership = 'join' AND right(c.state_key, length($2) + 1) = ':' || $2"
            " AND c.former IS DISTINCT FROM 'join'"
            f" AND NOT {_SHARES_ANOTHER} ORDER BY c.position FETCH FIRST $5 ROWS WITH TIES",
            server,
            own,
            after,
            up_to,
            limit,
        )
        return [(row["position"], row["state_key"]) for row in rows]
