"""Gaps in history: events that other events name as parents and that aren't stored. Owns `gaps`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId
from homeserver.storage.database import Connection, Database


class GapRow(msgspec.Struct, frozen=True, gc=False):
    """A missing event, and the place of the event that names it; of several the lowest."""

    missing: EventId
    live_index: int
    gap_index: int

    @property
    def order(self) -> tuple[int, int]:
        """Returns the place, (live_index, gap_index)."""
        return self.live_index, self.gap_index


class MissingEventRow(msgspec.Struct, frozen=True, gc=False):
    """An event that a room lacks."""

    room_row_id: int
    missing: EventId


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


async def close(connection: Connection, room_row_id: int, missing: Sequence[str]) -> None:
    """Deletes the gaps of events that are stored now."""
    await connection.execute(
        "DELETE FROM gaps WHERE room_row_id = $1 AND missing = ANY($2::text[])",
        room_row_id,
        list(missing),
    )


class GapTable:
    """The gaps of all rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_rooms(self, room_row_ids: Sequence[int]) -> list[MissingEventRow]:
        """Returns all that rooms lack."""
        rows = await self._database.fetch(
            "SELECT room_row_id, missing FROM gaps WHERE room_row_id = ANY($1::bigint[])",
            list(room_row_ids),
        )
        return [MissingEventRow(*row) for row in rows]

    async def before(self, room_row_id: int, order: tuple[int, int], limit: int) -> list[GapRow]:
        """Returns gaps at or below a place, nearest first."""
        rows = await self._database.fetch(
            "SELECT missing, live_index, gap_index FROM gaps WHERE room_row_id = $1"
            " AND (live_index, gap_index) <= ($2, $3)"
            " ORDER BY live_index DESC, gap_index DESC LIMIT $4",
            room_row_id,
            *order,
            limit,
        )
        return [GapRow(*row) for row in rows]

    async def behind(self, room_row_id: int, order: tuple[int, int], limit: int) -> list[GapRow]:
        """Returns gaps at or above a place, nearest first."""
        rows = await self._database.fetch(
            "SELECT missing, live_index, gap_index FROM gaps WHERE room_row_id = $1"
            " AND (live_index, gap_index) >= ($2, $3)"
            " ORDER BY live_index, gap_index LIMIT $4",
            room_row_id,
            *order,
            limit,
        )
        return [GapRow(*row) for row in rows]

    async def left_by(self, room_row_id: int, missing: Sequence[str]) -> list[GapRow]:
        """Returns the gaps that these missing events leave, the newest first."""
        rows = await self._database.fetch(
            "SELECT missing, live_index, gap_index FROM gaps WHERE room_row_id = $1"
            " AND missing = ANY($2::text[])"
            " ORDER BY live_index DESC, gap_index DESC",
            room_row_id,
            list(missing),
        )
        return [GapRow(*row) for row in rows]
