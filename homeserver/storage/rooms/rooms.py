"""Rooms and their heads. Owns the tables `rooms` and `room_heads`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import RoomId
from homeserver.storage.database import Connection, Database


class RoomRow(msgspec.Struct, frozen=True):
    """A room with its forward extremities (row numbers of events), the snapshot of its current
    state, and the live index and log position of its newest event. `has_relations`: one of its
    events relates to another one."""

    room_row_id: int
    room_id: RoomId
    version: str
    heads: list[int]
    snapshot_row_id: int
    live_index: int
    position: int
    has_relations: bool


async def ensure(connection: Connection, room_row_id: int, room_id: str, version: str) -> int:
    """Returns the room's number; `room_row_id` if the room is new here."""
    number: int = await connection.fetchval(
        "INSERT INTO rooms (room_row_id, room_id, version) VALUES ($1, $2, $3)"
        " ON CONFLICT (room_id) DO UPDATE SET version = CASE WHEN rooms.version = ''"
        " THEN excluded.version ELSE rooms.version END RETURNING room_row_id",
        room_row_id,
        room_id,
        version,
    )
    return number


async def ensure_known(connection: Connection, room_id: str) -> int:
    """Returns the number of a room that may be known only by its ID, of an unknown version."""
    number: int | None = await connection.fetchval(
        "SELECT room_row_id FROM rooms WHERE room_id = $1", room_id
    )
    if number is None:
        row_id: int = await connection.fetchval("SELECT nextval('row_ids')")
        number = await ensure(connection, row_id, room_id, "")
    return number


async def set_heads(
    connection: Connection, rows: Sequence[tuple[int, Sequence[int], int, int, int]]
) -> None:
    """Writes rows of (room_row_id, heads, snapshot_row_id, live_index, position)."""
    await connection.execute(
        "INSERT INTO room_heads (room_row_id, heads, snapshot_row_id, live_index, position)"
        " SELECT room_row_id, heads::bigint[], snapshot, live_index, position FROM unnest("
        "$1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])"
        " AS u (room_row_id, heads, snapshot, live_index, position)"
        " ON CONFLICT (room_row_id) DO UPDATE SET heads = excluded.heads,"
        " snapshot_row_id = excluded.snapshot_row_id, live_index = excluded.live_index,"
        " position = excluded.position",
        [row[0] for row in rows],
        ["{" + ",".join(map(str, row[1])) + "}" for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        [row[4] for row in rows],
    )


class RoomTable:
    """The rooms that we are, or were, in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_room_ids(self, room_ids: Sequence[str]) -> list[RoomRow]:
        """Returns rooms with their heads; rooms that are known only by their ID are left out."""
        rows = await self._database.fetch(
            "SELECT r.room_row_id, r.room_id, r.version, h.heads, h.snapshot_row_id, h.live_index,"
            " h.position, (SELECT relates_to FROM events e WHERE e.room_row_id = r.room_row_id"
            # Ordered as the index, which has such events alone: none of the others is read.
            "  AND relates_to IS NOT NULL AND live_index IS NOT NULL"
            "  ORDER BY relates_to, rel_type, live_index, gap_index LIMIT 1) IS NOT NULL"
            " FROM rooms r JOIN room_heads h USING (room_row_id) WHERE r.room_id = ANY($1::text[])",
            list(room_ids),
        )
        return [RoomRow(*row) for row in rows]
