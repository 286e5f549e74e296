"""Gaps in history: events that other events name as parents and that aren't stored. Owns `gaps`."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.storage.database import Connection, Row


async def insert(connection: Connection, rows: Sequence[tuple[int, str, int, int]]) -> None:
    """Writes rows of (room_nid, missing event, n, fill of the event that names it); of several that
    name it the lowest counts."""
    await connection.execute(
        "INSERT INTO gaps AS g SELECT DISTINCT ON (u.room_nid, u.missing) u.*"
        " FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[])"
        " AS u (room_nid, missing, n, fill) ORDER BY u.room_nid, u.missing, u.n, u.fill"
        " ON CONFLICT (room_nid, missing) DO UPDATE SET n = excluded.n, fill = excluded.fill"
        " WHERE (excluded.n, excluded.fill) < (g.n, g.fill)",
        *([row[i] for row in rows] for i in range(4)),
    )


async def missing(connection: Connection, room_nids: Sequence[int]) -> list[Row]:
    """Returns (room_nid, missing) of all gaps of rooms."""
    return await connection.fetch(
        "SELECT room_nid, missing FROM gaps WHERE room_nid = ANY($1::bigint[])", list(room_nids)
    )


async def before(
    connection: Connection, room_nid: int, order: tuple[int, int], limit: int
) -> list[Row]:
    """Returns missing events at or below a place, nearest first."""
    return await connection.fetch(
        "SELECT missing, n, fill FROM gaps WHERE room_nid = $1 AND (n, fill) <= ($2, $3)"
        " ORDER BY n DESC, fill DESC LIMIT $4",
        room_nid,
        *order,
        limit,
    )


async def behind(
    connection: Connection, room_nid: int, order: tuple[int, int], limit: int
) -> list[Row]:
    """Returns missing events at or above a place, nearest first."""
    return await connection.fetch(
        "SELECT missing, n, fill FROM gaps WHERE room_nid = $1 AND (n, fill) >= ($2, $3)"
        " ORDER BY n, fill LIMIT $4",
        room_nid,
        *order,
        limit,
    )


async def close(connection: Connection, room_nid: int, missing: Sequence[str]) -> None:
    """Deletes the gaps of events that are stored now."""
    await connection.execute(
        "DELETE FROM gaps WHERE room_nid = $1 AND missing = ANY($2::text[])",
        room_nid,
        list(missing),
    )


async def left_by(connection: Connection, room_nid: int, missing: Sequence[str]) -> list[Row]:
    """Returns the gaps that these missing events leave, the newest first."""
    return await connection.fetch(
        "SELECT missing, n, fill FROM gaps WHERE room_nid = $1 AND missing = ANY($2::text[])"
        " ORDER BY n DESC, fill DESC",
        room_nid,
        list(missing),
    )
