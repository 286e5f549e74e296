"""Gaps in history: events that other events name as parents and that aren't stored. Owns `gaps`."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.storage.database import Connection, Row


async def insert(connection: Connection, rows: Sequence[tuple[int, str, int, int]]) -> None:
    """Writes rows of (room_row_id, missing event, live_index, gap_index of the event that names
    it); of several that name it the lowest counts."""
    await connection.execute(
        "INSERT INTO gaps AS g SELECT DISTINCT ON (u.room_row_id, u.missing) u.*"
        " FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[])"
        " AS u (room_row_id, missing, live_index, gap_index)"
        " ORDER BY u.room_row_id, u.missing, u.live_index, u.gap_index"
        " ON CONFLICT (room_row_id, missing) DO UPDATE SET live_index = excluded.live_index,"
        " gap_index = excluded.gap_index"
        " WHERE (excluded.live_index, excluded.gap_index) < (g.live_index, g.gap_index)",
        *([row[i] for row in rows] for i in range(4)),
    )


async def missing(connection: Connection, room_row_ids: Sequence[int]) -> list[Row]:
    """Returns (room_row_id, missing) of all gaps of rooms."""
    return await connection.fetch(
        "SELECT room_row_id, missing FROM gaps WHERE room_row_id = ANY($1::bigint[])",
        list(room_row_ids),
    )


async def before(
    connection: Connection, room_row_id: int, order: tuple[int, int], limit: int
) -> list[Row]:
    """Returns missing events at or below a place, nearest first."""
    return await connection.fetch(
        "SELECT missing, live_index, gap_index FROM gaps WHERE room_row_id = $1"
        " AND (live_index, gap_index) <= ($2, $3)"
        " ORDER BY live_index DESC, gap_index DESC LIMIT $4",
        room_row_id,
        *order,
        limit,
    )


async def behind(
    connection: Connection, room_row_id: int, order: tuple[int, int], limit: int
) -> list[Row]:
    """Returns missing events at or above a place, nearest first."""
    return await connection.fetch(
        "SELECT missing, live_index, gap_index FROM gaps WHERE room_row_id = $1"
        " AND (live_index, gap_index) >= ($2, $3)"
        " ORDER BY live_index, gap_index LIMIT $4",
        room_row_id,
        *order,
        limit,
    )


async def close(connection: Connection, room_row_id: int, missing: Sequence[str]) -> None:
    """Deletes the gaps of events that are stored now."""
    await connection.execute(
        "DELETE FROM gaps WHERE room_row_id = $1 AND missing = ANY($2::text[])",
        room_row_id,
        list(missing),
    )


async def left_by(connection: Connection, room_row_id: int, missing: Sequence[str]) -> list[Row]:
    """Returns the gaps that these missing events leave, the newest first."""
    return await connection.fetch(
        "SELECT missing, live_index, gap_index FROM gaps WHERE room_row_id = $1"
        " AND missing = ANY($2::text[])"
        " ORDER BY live_index DESC, gap_index DESC",
        room_row_id,
        list(missing),
    )
