"""The log between two positions, as far as it concerns application services. Reads `events`,
`state_changes`, `memberships`, `rooms`, `to_device_messages`, `device_list_changes`, `accounts` and
`aliases`.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from federation.events.ids import DeviceId, EventId, RoomAlias, RoomId, UserId
from homeserver import limits
from homeserver.storage.database import Database


class PlacedEventRow(msgspec.Struct, frozen=True):
    """An event that was released to clients."""

    position: int
    room_id: RoomId
    event_id: EventId
    type: str
    state_key: str | None
    sender: UserId


class MemberChangeRow(msgspec.Struct, frozen=True):
    """A change of a user's current membership."""

    position: int
    room_id: RoomId
    user_id: UserId
    membership: str | None
    former: str | None


class WaitingMessageRow(msgspec.Struct, frozen=True):
    """A message that waits for a device."""

    position: int
    user_id: UserId
    device_id: DeviceId
    message: bytes


_RANGE = "position > $1 AND position <= $2"
_JOINED = (
    "SELECT r.room_id, m.user_id FROM memberships m JOIN rooms r USING (room_row_id)"
    " WHERE m.user_id = ANY($1::text[]) AND 'join' = CASE WHEN m.position <= $2 THEN m.membership"
    " ELSE (SELECT c.former FROM state_changes c WHERE c.room_row_id = m.room_row_id"
    "  AND c.type = 'm.room.member' AND c.state_key = m.user_id AND c.position > $2"
    "  ORDER BY c.position LIMIT 1) END"
)


class LogWindowTable:
    """Stretches of the log: each method returns what is at after < position <= up_to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def events(self, after: int, up_to: int) -> list[PlacedEventRow]:
        """Returns events."""
        rows = await self._database.fetch(
            "SELECT e.position, r.room_id, e.event_id, e.type, e.state_key, e.sender"
            " FROM events e JOIN rooms r USING (room_row_id)"
            " WHERE e.position > $1 AND e.position <= $2",
            after,
            up_to,
        )
        return [PlacedEventRow(*row) for row in rows]

    async def member_changes(self, after: int, up_to: int) -> list[MemberChangeRow]:
        """Returns changes of memberships, of users of all servers."""
        rows = await self._database.fetch(
            "SELECT c.position, r.room_id, c.state_key, c.membership, c.former"
            " FROM state_changes c JOIN rooms r USING (room_row_id)"
            " WHERE c.position > $1 AND c.position <= $2 AND c.type = 'm.room.member'",
            after,
            up_to,
        )
        return [MemberChangeRow(*row) for row in rows]

    async def messages(self, after: int, up_to: int) -> list[WaitingMessageRow]:
        """Returns messages that wait for devices."""
        rows = await self._database.fetch(
            f"SELECT position, user_id, device_id, message FROM to_device_messages WHERE {_RANGE}",
            after,
            up_to,
        )
        return [WaitingMessageRow(*row) for row in rows]

    async def device_changes(self, after: int, up_to: int) -> list[tuple[int, UserId]]:
        """Returns the users whose devices changed."""
        rows = await self._database.fetch(
            f"SELECT position, user_id FROM device_list_changes WHERE {_RANGE}", after, up_to
        )
        return [(row[0], UserId(row[1])) for row in rows]

    async def accounts(self, after: UserId) -> list[UserId]:
        """Returns local users past a user ID, in order: at most `ACCOUNTS_READ_AT_ONCE`."""
        rows = await self._database.fetch(
            "SELECT user_id FROM accounts WHERE user_id > $1 ORDER BY user_id LIMIT $2",
            after,
            limits.ACCOUNTS_READ_AT_ONCE,
        )
        return [UserId(row[0]) for row in rows]

    async def joined(
        self, user_ids: Collection[UserId], position: int
    ) -> list[tuple[RoomId, UserId]]:
        """Returns the rooms that users were joined to at a position of the log."""
        rows = await self._database.fetch(_JOINED, list(user_ids), position)
        return [(RoomId(row[0]), UserId(row[1])) for row in rows]

    async def all_aliases(self, after: RoomAlias) -> list[tuple[RoomId, RoomAlias]]:
        """Returns local aliases past one, in order: at most `ACCOUNTS_READ_AT_ONCE`."""
        rows = await self._database.fetch(
            "SELECT room_id, alias FROM aliases WHERE alias > $1 ORDER BY alias LIMIT $2",
            after,
            limits.ACCOUNTS_READ_AT_ONCE,
        )
        return [(RoomId(row[0]), RoomAlias(row[1])) for row in rows]

    async def aliases(self, room_ids: Collection[RoomId]) -> list[tuple[RoomId, RoomAlias]]:
        """Returns the present local aliases of rooms."""
        rows = await self._database.fetch(
            "SELECT room_id, alias FROM aliases WHERE room_id = ANY($1::text[])", list(room_ids)
        )
        return [(RoomId(row[0]), RoomAlias(row[1])) for row in rows]
