"""Verdicts on unverified state, and the rechecks of them.

Owns the tables `unverified_parents` and `rechecks_due`, and the column `events.unverified`.

Rules:
1. An event that is stored as unverified has a row for each of its parents; they are deleted once it
   is verified.
2. It is due when one of its parents gets its place or is verified, and when its state turns out to
   be wrong. The due rows are the only state of the work: a crash between two steps loses none of
   it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId
from homeserver.storage.database import Connection, Database


class DueRow(msgspec.Struct, frozen=True, gc=False):
    """An event that is due."""

    event_row_id: int
    event_id: EventId


class MissingParentRow(msgspec.Struct, frozen=True, gc=False):
    """A parent that an unverified event of a room waits for."""

    room_row_id: int
    parent: EventId


class RecheckRows(msgspec.Struct):
    """The changes of a batch, in the order in which they are applied."""

    opened: list[tuple[int, str, int, bool]] = []
    """(room_row_id, parent, event_row_id, is the parent missing) of events that are unverified
    now."""
    not_due: list[tuple[int, int]] = []
    """(room_row_id, event_row_id) of events that aren't due any more."""
    marked: list[tuple[int, int]] = []
    """(room_row_id, event_row_id) of events that are unverified from now on, and due."""
    verified: list[tuple[int, int, str]] = []
    """(room_row_id, event_row_id, event_id); events that name these are due."""
    placed: list[tuple[int, str]] = []
    """(room_row_id, event_id) of missing parents that got a place; events that name them are
    due."""
    due: list[tuple[int, int]] = []
    """(room_row_id, event_row_id)"""

    def extend(self, other: RecheckRows) -> None:
        """Adds another change of the same batch."""
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)


async def write(connection: Connection, rows: RecheckRows) -> None:
    """Applies the changes of a batch."""
    if rows.opened:
        await connection.execute(
            "INSERT INTO unverified_parents SELECT * FROM unnest($1::bigint[], $2::text[],"
            " $3::bigint[], $4::boolean[]) ON CONFLICT DO NOTHING",
            *([row[i] for row in rows.opened] for i in range(4)),
        )
    await _not_due(connection, [*rows.not_due, *(row[:2] for row in rows.verified)])
    if rows.marked:
        await connection.execute(
            "UPDATE events SET unverified = true FROM unnest($1::bigint[], $2::bigint[])"
            " AS u (room_row_id, event_row_id)"
            " WHERE events.room_row_id = u.room_row_id AND events.event_row_id = u.event_row_id",
            *_columns(rows.marked),
        )
    if rows.verified:
        await _verified(connection, rows.verified)
    if rows.placed:
        await connection.execute(
            "WITH found AS (UPDATE unverified_parents p SET missing = false"
            " FROM unnest($1::bigint[], $2::text[]) AS u (room_row_id, parent)"
            " WHERE p.room_row_id = u.room_row_id AND p.parent = u.parent AND p.missing"
            " RETURNING p.room_row_id, p.event_row_id)"
            " INSERT INTO rechecks_due SELECT DISTINCT room_row_id, event_row_id"
            " FROM found ON CONFLICT DO NOTHING",
            [row[0] for row in rows.placed],
            [row[1] for row in rows.placed],
        )
    due_now = [*rows.marked, *rows.due]
    if due_now:
        await connection.execute(
            "INSERT INTO rechecks_due SELECT * FROM unnest($1::bigint[], $2::bigint[])"
            " ON CONFLICT DO NOTHING",
            *_columns(due_now),
        )


def _columns(rows: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [row[0] for row in rows], [row[1] for row in rows]


async def _not_due(connection: Connection, rows: Sequence[tuple[int, int]]) -> None:
    if rows:
        await connection.execute(
            "DELETE FROM rechecks_due d USING unnest($1::bigint[], $2::bigint[])"
            " AS u (room_row_id, event_row_id)"
            " WHERE d.room_row_id = u.room_row_id AND d.event_row_id = u.event_row_id",
            *_columns(rows),
        )


async def _verified(connection: Connection, rows: Sequence[tuple[int, int, str]]) -> None:
    rooms = [row[0] for row in rows]
    await connection.execute(
        "UPDATE events SET unverified = false FROM unnest($1::bigint[], $2::bigint[])"
        " AS u (room_row_id, event_row_id)"
        " WHERE events.room_row_id = u.room_row_id AND events.event_row_id = u.event_row_id",
        rooms,
        [row[1] for row in rows],
    )
    await connection.execute(
        "DELETE FROM unverified_parents p USING unnest($1::bigint[], $2::bigint[])"
        " AS u (room_row_id, event_row_id)"
        " WHERE p.room_row_id = u.room_row_id AND p.event_row_id = u.event_row_id",
        rooms,
        [row[1] for row in rows],
    )
    await connection.execute(
        "INSERT INTO rechecks_due SELECT DISTINCT p.room_row_id, p.event_row_id FROM"
        " unverified_parents p JOIN unnest($1::bigint[], $2::text[]) AS u (room_row_id, parent)"
        " USING (room_row_id, parent) ON CONFLICT DO NOTHING",
        rooms,
        [row[2] for row in rows],
    )


class RecheckTable:
    """The due rechecks, and what unverified events wait for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rooms_with_work(self) -> list[str]:
        """Returns the rooms with due events."""
        rows = await self._database.fetch(
            "SELECT room_id FROM rooms WHERE room_row_id IN (SELECT room_row_id FROM rechecks_due)"
            " ORDER BY room_row_id"
        )
        return [row["room_id"] for row in rows]

    async def due(self, room_row_id: int, limit: int) -> list[DueRow]:
        """Returns a room's due events: history first, in room order, then events without a place;
        then the unverified descendants of these, which may come next."""
        rows = await self._database.fetch(
            "WITH RECURSIVE next AS ("
            " (SELECT e.event_row_id, e.event_id FROM rechecks_due d JOIN events e"
            "  USING (room_row_id, event_row_id) WHERE d.room_row_id = $1"
            "  ORDER BY e.live_index, e.gap_index, e.event_row_id LIMIT $2)"
            " UNION"
            " SELECT e.event_row_id, e.event_id FROM next JOIN unverified_parents p"
            "  ON p.room_row_id = $1 AND p.parent = next.event_id"
            "  JOIN events e ON e.room_row_id = $1 AND e.event_row_id = p.event_row_id)"
            " SELECT event_row_id, event_id FROM next LIMIT $2",
            room_row_id,
            limit,
        )
        return [DueRow(*row) for row in rows]

    async def awaited(self, room_row_ids: Sequence[int]) -> list[MissingParentRow]:
        """Returns the missing parents of unverified events of rooms."""
        rows = await self._database.fetch(
            "SELECT DISTINCT room_row_id, parent FROM unverified_parents"
            " WHERE room_row_id = ANY($1::bigint[]) AND missing",
            list(room_row_ids),
        )
        return [MissingParentRow(*row) for row in rows]
