"""Changes of current state in log order. Owns the table `state_changes`."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.storage.database import Connection, Row


async def insert(
    connection: Connection,
    rows: Sequence[tuple[int, int, str, str, str | None, str | None]],
) -> None:
    """Rows of (room_nid, position, type, state_key, event_id, membership)."""
    await connection.execute(
        "INSERT INTO state_changes (room_nid, position, type, state_key, event_id, membership)"
        " SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[],"
        " $6::text[])",
        *([row[i] for row in rows] for i in range(6)),
    )


async def between(connection: Connection, room_nid: int, after: int, upto: int) -> list[Row]:
    """Those of a room with after < position <= upto, in order."""
    return await connection.fetch(
        "SELECT position, type, state_key, event_id, membership FROM state_changes"
        " WHERE room_nid = $1 AND position > $2 AND position <= $3 ORDER BY position",
        room_nid,
        after,
        upto,
    )
