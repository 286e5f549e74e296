"""Changes of current state in log order, and the resolutions that caused changes without a single
event. Owns the tables `state_changes` and `resolutions`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId
from homeserver.storage.database import Connection, Database


class ResolutionRow(msgspec.Struct, frozen=True):
    """A resolution that changed a room's current state: the event that caused it, the snapshots of
    the current state before and after, and the branches, each an event with the snapshot of the
    state after it."""

    room_row_id: int
    position: int
    event_id: EventId
    made_ms: int
    state_before: int
    state_after: int
    branch_events: Sequence[EventId]
    branch_snapshots: Sequence[int]


class StateChangeRow(msgspec.Struct, frozen=True, gc=False):
    """A change of a room's current state: the event that is now at a key, None for none; of a
    member event the membership, and the one before it (`former`)."""

    room_row_id: int
    position: int
    type: str
    state_key: str
    event_id: EventId | None
    membership: str | None
    former: str | None


_CHANGE = StateChangeRow.__struct_fields__
_RESOLUTION = ResolutionRow.__struct_fields__


async def insert(connection: Connection, rows: Sequence[StateChangeRow]) -> None:
    """Writes changes."""
    await connection.execute(
        "INSERT INTO state_changes (room_row_id, position, type, state_key, event_id, membership,"
        " former) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[],"
        " $5::text[], $6::text[], $7::text[])",
        *([getattr(row, name) for row in rows] for name in _CHANGE),
    )


async def record_resolutions(
    connection: Connection, rows: Sequence[ResolutionRow], *, kept: int
) -> None:
    """Writes records, and deletes all but the `kept` newest of their rooms."""
    await connection.executemany(
        "INSERT INTO resolutions (room_row_id, position, event_id, made_ms, state_before,"
        " state_after, branch_events, branch_snapshots) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        [
            (
                row.room_row_id,
                row.position,
                row.event_id,
                row.made_ms,
                row.state_before,
                row.state_after,
                list(row.branch_events),
                list(row.branch_snapshots),
            )
            for row in rows
        ],
    )
    await connection.execute(
        "DELETE FROM resolutions r USING (SELECT u.room_row_id, ("
        "  SELECT position FROM resolutions WHERE room_row_id = u.room_row_id"
        "  ORDER BY position DESC OFFSET $2 LIMIT 1) AS upto"
        " FROM unnest($1::bigint[]) AS u (room_row_id)) old"
        " WHERE r.room_row_id = old.room_row_id AND r.position <= old.upto",
        sorted({row.room_row_id for row in rows}),
        kept,
    )


class StateChangeTable:
    """The changes of the state of all rooms, and the recorded resolutions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def between(self, room_row_id: int, *, after: int, up_to: int) -> list[StateChangeRow]:
        """Returns the changes of a room with after < position <= up_to, in order."""
        rows = await self._database.fetch(
            f"SELECT {', '.join(_CHANGE)} FROM state_changes"
            " WHERE room_row_id = $1 AND position > $2 AND position <= $3 ORDER BY position",
            room_row_id,
            after,
            up_to,
        )
        return [StateChangeRow(*row) for row in rows]

    async def end_of_stay(
        self, room_row_id: int, user_id: str
    ) -> tuple[int, EventId | None] | None:
        """Returns (position, event_id) of the last change by which a user ceased to be joined."""
        row = await self._database.fetchrow(
            "SELECT position, event_id FROM state_changes WHERE room_row_id = $1"
            " AND type = 'm.room.member' AND state_key = $2 AND former = 'join'"
            " AND membership IS DISTINCT FROM 'join' ORDER BY position DESC LIMIT 1",
            room_row_id,
            user_id,
        )
        return None if row is None else (row["position"], row["event_id"])

    async def first_join(self, room_row_id: int, user_id: str) -> int | None:
        """Returns the position at which a user of any server first joined a room."""
        position: int | None = await self._database.fetchval(
            "SELECT min(position) FROM state_changes WHERE room_row_id = $1"
            " AND type = 'm.room.member' AND state_key = $2 AND membership = 'join'",
            room_row_id,
            user_id,
        )
        return position

    async def resolutions(self, room_row_id: int) -> list[ResolutionRow]:
        """Returns the records of a room, newest first."""
        rows = await self._database.fetch(
            f"SELECT {', '.join(_RESOLUTION)} FROM resolutions WHERE room_row_id = $1"
            " ORDER BY position DESC",
            room_row_id,
        )
        return [ResolutionRow(*row) for row in rows]
