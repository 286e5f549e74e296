"""Verdicts on unverified state, and the rechecks of them.

Owns the tables `unproven_parents` and `rechecks_due`, and the column `events.unproven`.

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

from homeserver.storage.database import Connection, Row


class ProofRows(msgspec.Struct):
    """The changes of a batch, in the order in which they are applied."""

    opened: list[tuple[int, str, int, bool]] = []
    """(room_nid, parent, event_nid, is the parent missing) of events that are unverified now."""
    looked_at: list[tuple[int, int]] = []
    """(room_nid, event_nid) of events that aren't due any more."""
    marked: list[tuple[int, int]] = []
    """(room_nid, event_nid) of events that are unverified from now on, and due."""
    proven: list[tuple[int, int, str]] = []
    """(room_nid, event_nid, event_id); events that name these are due."""
    placed: list[tuple[int, str]] = []
    """(room_nid, event_id) of missing parents that got a place; events that name them are due."""
    due: list[tuple[int, int]] = []
    """(room_nid, event_nid)"""

    def extend(self, other: ProofRows) -> None:
        """Adds another change of the same batch."""
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)


async def write(connection: Connection, rows: ProofRows) -> None:
    """Applies the changes of a batch."""
    if rows.opened:
        await connection.execute(
            "INSERT INTO unproven_parents SELECT * FROM unnest($1::bigint[], $2::text[],"
            " $3::bigint[], $4::boolean[]) ON CONFLICT DO NOTHING",
            *([row[i] for row in rows.opened] for i in range(4)),
        )
    await _looked_at(connection, [*rows.looked_at, *(row[:2] for row in rows.proven)])
    if rows.marked:
        await connection.execute(
            "UPDATE events SET unproven = true FROM unnest($1::bigint[], $2::bigint[])"
            " AS u (room_nid, event_nid)"
            " WHERE events.room_nid = u.room_nid AND events.event_nid = u.event_nid",
            *_columns(rows.marked),
        )
    if rows.proven:
        await _proven(connection, rows.proven)
    if rows.placed:
        await connection.execute(
            "WITH found AS (UPDATE unproven_parents p SET missing = false"
            " FROM unnest($1::bigint[], $2::text[]) AS u (room_nid, parent)"
            " WHERE p.room_nid = u.room_nid AND p.parent = u.parent AND p.missing"
            " RETURNING p.room_nid, p.event_nid)"
            " INSERT INTO proofs_due SELECT DISTINCT room_nid, event_nid FROM found"
            " ON CONFLICT DO NOTHING",
            [row[0] for row in rows.placed],
            [row[1] for row in rows.placed],
        )
    due_now = [*rows.marked, *rows.due]
    if due_now:
        await connection.execute(
            "INSERT INTO proofs_due SELECT * FROM unnest($1::bigint[], $2::bigint[])"
            " ON CONFLICT DO NOTHING",
            *_columns(due_now),
        )


def _columns(rows: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [row[0] for row in rows], [row[1] for row in rows]


async def _looked_at(connection: Connection, rows: Sequence[tuple[int, int]]) -> None:
    if rows:
        await connection.execute(
            "DELETE FROM proofs_due d USING unnest($1::bigint[], $2::bigint[])"
            " AS u (room_nid, event_nid)"
            " WHERE d.room_nid = u.room_nid AND d.event_nid = u.event_nid",
            *_columns(rows),
        )


async def _proven(connection: Connection, rows: Sequence[tuple[int, int, str]]) -> None:
    rooms = [row[0] for row in rows]
    await connection.execute(
        "UPDATE events SET unproven = false FROM unnest($1::bigint[], $2::bigint[])"
        " AS u (room_nid, event_nid)"
        " WHERE events.room_nid = u.room_nid AND events.event_nid = u.event_nid",
        rooms,
        [row[1] for row in rows],
    )
    await connection.execute(
        "DELETE FROM unproven_parents p USING unnest($1::bigint[], $2::bigint[])"
        " AS u (room_nid, event_nid)"
        " WHERE p.room_nid = u.room_nid AND p.event_nid = u.event_nid",
        rooms,
        [row[1] for row in rows],
    )
    await connection.execute(
        "INSERT INTO proofs_due SELECT DISTINCT p.room_nid, p.event_nid FROM unproven_parents p"
        " JOIN unnest($1::bigint[], $2::text[]) AS u (room_nid, parent) USING (room_nid, parent)"
        " ON CONFLICT DO NOTHING",
        rooms,
        [row[2] for row in rows],
    )


async def rooms_with_work(connection: Connection) -> list[str]:
    """Returns the rooms with due events."""
    rows = await connection.fetch(
        "SELECT room_id FROM rooms WHERE room_nid IN (SELECT room_nid FROM proofs_due)"
        " ORDER BY room_nid"
    )
    return [row["room_id"] for row in rows]


async def due(connection: Connection, room_nid: int, limit: int) -> list[Row]:
    """Returns (event_nid, event_id) of a room's due events: history first, in room order, then
    events without a place; then the unverified descendants of these, which may come next."""
    return await connection.fetch(
        "WITH RECURSIVE next AS ("
        " (SELECT e.event_nid, e.event_id FROM proofs_due d JOIN events e"
        "  USING (room_nid, event_nid) WHERE d.room_nid = $1"
        "  ORDER BY e.n, e.fill, e.event_nid LIMIT $2)"
        " UNION"
        " SELECT e.event_nid, e.event_id FROM next JOIN unproven_parents p"
        "  ON p.room_nid = $1 AND p.parent = next.event_id"
        "  JOIN events e ON e.room_nid = $1 AND e.event_nid = p.event_nid)"
        " SELECT event_nid, event_id FROM next LIMIT $2",
        room_nid,
        limit,
    )


async def awaited(connection: Connection, room_nids: Sequence[int]) -> list[Row]:
    """Returns (room_nid, parent) of the missing parents of unverified events of rooms."""
    return await connection.fetch(
        "SELECT DISTINCT room_nid, parent FROM unproven_parents"
        " WHERE room_nid = ANY($1::bigint[]) AND missing",
        list(room_nids),
    )


async def with_place(connection: Connection, room_nid: int, after: int, limit: int) -> list[Row]:
    """Returns (event_nid, event_id, json) of the events of a room whose place in the graph is
    known, rejected ones included, with numbers above `after`."""
    return await connection.fetch(
        "SELECT event_nid, event_id, json FROM events"
        " WHERE room_nid = $1 AND event_nid > $2 AND NOT outlier ORDER BY event_nid LIMIT $3",
        room_nid,
        after,
        limit,
    )
