"""Redactions that came before their target. Owns the table `pending_redactions`."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.storage.database import Connection, Row


async def keep(connection: Connection, room_row_id: int, target: str, redaction: str) -> None:
    """Stores a redaction until its target arrives."""
    await connection.execute(
        "INSERT INTO pending_redactions VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        room_row_id,
        target,
        redaction,
    )


async def awaited(connection: Connection, room_row_ids: Sequence[int], limit: int) -> list[Row]:
    """Returns (room_row_id, target, redaction) of the redactions of rooms that wait for their
    target; at most `limit` of each room."""
    return await connection.fetch(
        "SELECT p.* FROM unnest($1::bigint[]) AS u (room_row_id), LATERAL ("
        " SELECT room_row_id, target, redaction FROM pending_redactions"
        " WHERE room_row_id = u.room_row_id ORDER BY target, redaction LIMIT $2) AS p",
        list(room_row_ids),
        limit,
    )


async def waiting_for(connection: Connection, room_row_id: int, target: str) -> list[Row]:
    """Returns the redactions that wait for an event."""
    return await connection.fetch(
        "SELECT redaction FROM pending_redactions WHERE room_row_id = $1"
        " AND target = $2 ORDER BY redaction",
        room_row_id,
        target,
    )


async def arrived(connection: Connection, room_row_id: int, target: str) -> None:
    """Deletes a waiting redaction that was applied to its target."""
    await connection.execute(
        "DELETE FROM pending_redactions WHERE room_row_id = $1 AND target = $2", room_row_id, target
    )
