"""Data owed to other servers: events, stored EDUs, changes of device lists, and users whose lists
they need from now on.

Each list is read for itself: a cursor moves only as far as the shortest (`engine.followers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.events.ids import ServerName
from homeserver.storage.database import Connection, Database
from homeserver.storage.federation.remote_edus import RemoteEduTable
from homeserver.storage.rooms import withdrawals
from homeserver.storage.rooms.memberships import MembershipTable
from homeserver.storage.rooms.withdrawals import OwedEventRow


class OwedRows(msgspec.Struct, frozen=True):
    """The data owed to a destination: events, EDUs with their positions, positions of changes of
    device lists, and local users whose lists it needs from now on, each with the position of the
    join."""

    events: Sequence[OwedEventRow]
    edus: Sequence[tuple[int, bytes]]
    device_changes: Sequence[int]
    joins: Sequence[tuple[int, str]] = ()


_IS_OWED = (
    "e.live_index IS NOT NULL AND e.gap_index = 0 AND e.position > $2 AND e.position >="
    " s.joined_position"
    " AND (s.left_position IS NULL OR e.position <= s.left_position)"
    " AND e.to_federate AND right(e.sender, length($4)) <> $4"
)
_ALL_OWED = (
    "SELECT DISTINCT ON (e.position) e.position, e.event_row_id, e.json FROM room_servers s"
    " JOIN room_heads h USING (room_row_id)"
    f" JOIN events e ON e.room_row_id = s.room_row_id AND {_IS_OWED}"
    " WHERE s.server = $1 AND h.position > $2 ORDER BY e.position LIMIT $3"
)
_LATEST_OWED = (
    "SELECT DISTINCT ON (e.position) e.position, e.event_row_id, e.json FROM room_servers s"
    " JOIN room_heads h USING (room_row_id) CROSS JOIN LATERAL"
    f" ((SELECT e.event_row_id FROM events e WHERE e.room_row_id = s.room_row_id AND {_IS_OWED}"
    "  ORDER BY e.live_index DESC LIMIT 1) UNION SELECT unnest(h.heads)) AS k (event_row_id)"
    " JOIN events e ON e.room_row_id = s.room_row_id"
    f" AND e.event_row_id = k.event_row_id AND {_IS_OWED}"
    " WHERE s.server = $1 AND h.position > $2"
    " AND (s.left_position IS NULL OR s.left_position > $2) ORDER BY e.position LIMIT $3"
)
_BESIDE_JOINS = (
    "SELECT s.joined_position, e.event_row_id, e.json FROM room_servers s"
    " JOIN room_heads h USING (room_row_id) JOIN events e ON e.room_row_id = s.room_row_id"
    "  AND e.event_row_id = ANY(h.heads) AND e.gap_index = 0 AND e.position < s.joined_position"
    "  AND e.to_federate AND right(e.sender, length($4)) <> $4"
    " WHERE s.server = $1 AND s.left_position IS NULL AND s.joined_position > $2"
)


async def _owed_events(
    connection: Connection,
    server: str,
    *,
    after: int,
    limit: int,
    latest: bool,
) -> list[OwedEventRow]:
    """Returns our events that `server` hasn't been sent: in rooms where it was at the time, or
    events that made it leave; with `latest` those that lead to all others, the newest event of each
    room and the room's heads. At the place of its join, heads beside it. Events at one position may
    exceed `limit`. Its own events are
    left out."""
    found = _LATEST_OWED if latest else _ALL_OWED
    rows = await connection.fetch(
        "SELECT position, json FROM (SELECT DISTINCT ON (position, event_row_id) position, json"
        f" FROM (({found}) UNION ALL ({_BESIDE_JOINS})) AS o (position, event_row_id, json)) d"
        " ORDER BY position FETCH FIRST $3 ROWS WITH TIES",
        server,
        after,
        limit,
        ":" + server,
    )
    return [OwedEventRow(*row) for row in rows]


class OwedData:
    """What other servers are owed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._memberships, self._edus = MembershipTable(database), RemoteEduTable(database)

    async def owed(
        self,
        destination: str,
        own: str,
        *,
        after: int,
        up_to: int,
        limit: int,
        latest: bool = False,
    ) -> OwedRows:
        """Returns the data after a position, each list with at most `limit`; of events, with
        `latest`, only those that lead to all others."""
        async with self._database.connection() as connection:
            events = await _owed_events(
                connection, destination, after=after, limit=limit, latest=latest
            )
            ends = await withdrawals.owed(connection, destination, after=after, limit=limit)
        edus = await self._edus.load(ServerName(destination), after=after, up_to=up_to, limit=limit)
        changes = await self._memberships.device_changes_for(
            destination, own, after=after, up_to=up_to, limit=limit
        )
        joins = await self._memberships.joins_shown_to(
            destination, own, after=after, up_to=up_to, limit=limit
        )
        return OwedRows(withdrawals.merged(events, ends, limit), edus, changes, joins)

    async def lagging(self, own: str) -> tuple[Mapping[str, int], Sequence[str]]:
        """Returns the newest position that may concern each server that shares or shared a room
        with us, or whose user was invited or knocked; and the servers with waiting EDUs."""
        newest = await self._memberships.lagging_servers(own)
        async with self._database.connection() as connection:
            ends = await withdrawals.servers(connection, own)
        for server, position in ends.items():
            newest[server] = max(position, newest.get(server, position))
        return newest, await self._edus.load_destinations()

    async def forget_edus(self, destination: str, up_to: int) -> None:
        """Deletes the EDUs that a server has received: all up to a position."""
        await self._edus.delete(ServerName(destination), up_to)
