"""Changes of current state in log order, and the resolutions that caused changes without a single
event. Owns the tables `state_changes` and `resolutions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from homeserver.storage.database import Connection, Row


class ResolutionRow(msgspec.Struct, frozen=True):
    """A resolution that changed a room's current state: the event that caused it, the snapshots of
    the current state before and after, and the branches, each an event with the snapshot of the
    state after it."""

    room_row_id: int
    position: int
    event_id: str
    made_ms: int
    state_before: int
    state_after: int
    branch_events: Sequence[str]
    branch_snapshots: Sequence[int]


StateChangeRow: TypeAlias = tuple[int, int, str, str, str | None, str | None, str | None]
"""(room_row_id, position, type, state_key, event_id, membership, membership before)"""


async def insert(connection: Connection, rows: Sequence[StateChangeRow]) -> None:
    """Writes changes."""
    await connection.execute(
        "INSERT INTO state_changes (room_row_id, position, type, state_key, event_id, membership,"
        " former) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[],"
        " $5::text[], $6::text[], $7::text[])",
        *([row[i] for row in rows] for i in range(7)),
    )


async def between(connection: Connection, room_row_id: int, after: int, up_to: int) -> list[Row]:
    """Returns the changes of a room with after < position <= up_to, in order."""
    return await connection.fetch(
        "SELECT position, type, state_key, event_id, membership, former FROM state_changes"
        " WHERE room_row_id = $1 AND position > $2 AND position <= $3 ORDER BY position",
        room_row_id,
        after,
        up_to,
    )


async def end_of_stay(connection: Connection, room_row_id: int, user_id: str) -> Row | None:
    """Returns (position, event_id) of the last change by which a user ceased to be joined."""
    return await connection.fetchrow(
        "SELECT position, event_id FROM state_changes WHERE room_row_id = $1"
        " AND type = 'm.room.member' AND state_key = $2 AND former = 'join'"
        " AND membership IS DISTINCT FROM 'join' ORDER BY position DESC LIMIT 1",
        room_row_id,
        user_id,
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


async def resolutions(connection: Connection, room_row_id: int) -> list[Row]:
    """Returns the records of a room, newest first."""
    return await connection.fetch(
        "SELECT position, event_id, made_ms, state_before, state_after, branch_events,"
        " branch_snapshots FROM resolutions WHERE room_row_id = $1 ORDER BY position DESC",
        room_row_id,
    )
