"""Events as rows. Owns the table `events`.

An event's place is `(live_index, gap_index)`: live ones `(live_index, 0)`, history fetched before
them `(live_index, -1)`, ... Rows without `live_index` have no place: outliers, rejected and
soft-failed events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import asyncpg
import msgspec
import orjson

from homeserver.storage.database import Connection, Row

ACCEPTED, SOFT_FAILED, REJECTED = 0, 1, 2

_COLUMNS = (
    "room_row_id",
    "event_row_id",
    "event_id",
    "type",
    "state_key",
    "sender",
    "membership",
    "position",
    "live_index",
    "gap_index",
    "verdict",
    "reason",
    "outlier",
    "unverified",
    "to_federate",
    "snapshot_before",
    "snapshot_after",
    "replaces",
    "redacted_by",
    "transaction_of",
    "json",
)
COLUMN_TYPES = (  # noqa: SIM905 - a table in two lines
    "bigint bigint text text text text text bigint bigint bigint smallint text boolean boolean"
    " boolean bigint bigint text text text bytea"
).split()
_UNNEST = ", ".join(f"${i + 1}::{name}[]" for i, name in enumerate(COLUMN_TYPES))
COLUMN_NAMES = ", ".join(_COLUMNS)
_INSERT = f"INSERT INTO events ({COLUMN_NAMES}) SELECT * FROM unnest({_UNNEST})"
_PLACE = (
    "UPDATE SET position = excluded.position, live_index = excluded.live_index,"
    " gap_index = excluded.gap_index,"
    " verdict = excluded.verdict, reason = excluded.reason, outlier = excluded.outlier,"
    " unverified = excluded.unverified, to_federate = excluded.to_federate,"
    " snapshot_before = excluded.snapshot_before, snapshot_after = excluded.snapshot_after,"
    " replaces = excluded.replaces"
)


class EventRow(msgspec.Struct):
    """One row to write; the order of fields is the order of columns."""

    room_row_id: int
    event_row_id: int
    event_id: str
    type: str
    state_key: str | None
    sender: str
    membership: str | None
    position: int | None
    live_index: int | None
    gap_index: int | None
    verdict: int
    reason: str | None
    outlier: bool
    unverified: bool
    to_federate: bool
    snapshot_before: int | None
    snapshot_after: int | None
    replaces: str | None
    redacted_by: str | None
    transaction_of: str | None
    json: bytes


def columns(rows: Sequence[EventRow]) -> list[list[Any]]:
    """Returns the rows as one array for each column."""
    return [[getattr(row, name) for row in rows] for name in _COLUMNS]


async def insert(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Writes new events; an outlier gets its place, and an unverified event its verified values."""
    await connection.execute(
        f"{_INSERT} ON CONFLICT (event_id) DO {_PLACE}"
        " WHERE events.outlier OR (events.unverified AND NOT excluded.unverified)",
        *columns(rows),
    )


async def move(connection: Connection, rows: Sequence[tuple[str, int, int]]) -> None:
    """Moves fetched history to other places: rows of (event, live_index, gap_index)."""
    await connection.execute(
        "UPDATE events SET live_index = u.live_index, gap_index = u.gap_index"
        " FROM unnest($1::text[], $2::bigint[], $3::bigint[])"
        " AS u (event_id, live_index, gap_index)"
        " WHERE events.event_id = u.event_id AND events.gap_index < 0",
        *([row[i] for row in rows] for i in range(3)),
    )


async def any_placed(connection: Connection, rows: Sequence[tuple[int, int, bool]]) -> bool:
    """Returns whether one of these events (room_row_id, event_row_id, unverified) has a place in
    its room's graph.
    """
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM events e JOIN"
        " unnest($1::bigint[], $2::bigint[], $3::boolean[])"
        " AS u (room_row_id, event_row_id, unverified)"
        " USING (room_row_id, event_row_id, unverified) WHERE NOT e.outlier)",
        *([row[i] for row in rows] for i in range(3)),
    )
    return found


async def insert_outliers(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Writes events without a place; existing ones stay as they are."""
    await connection.execute(f"{_INSERT} ON CONFLICT DO NOTHING", *columns(rows))


async def copy_new(connection: Connection, pieces: Iterable[Sequence[EventRow]]) -> bool:
    """Writes many events, none of which should be stored yet, at half the cost of
    `insert_outliers`; returns False, with nothing written, if one is stored. *Precondition:* an
    open transaction."""
    try:
        async with connection.transaction():
            for rows in pieces:
                await connection.copy_records_to_table(
                    "events", records=map(msgspec.structs.astuple, rows), columns=_COLUMNS
                )
    except asyncpg.UniqueViolationError:
        return False
    return True


async def has_any(connection: Connection, room_row_id: int) -> bool:
    """Returns whether an event of the room is stored."""
    return await connection.fetchval(
        "SELECT EXISTS (SELECT FROM events WHERE room_row_id = $1)", room_row_id
    )


async def by_id(connection: Connection, event_ids: Collection[str]) -> list[Row]:
    """Returns the rows of these events, in no order; `room_id` and `version` beside their
    columns.
    """
    return await connection.fetch(
        "SELECT e.*, r.room_id, r.version FROM events e JOIN rooms r USING (room_row_id)"
        " WHERE e.event_id = ANY($1::text[])",
        list(event_ids),
    )


async def raw_by_id(connection: Connection, event_ids: Collection[str]) -> list[Row]:
    """Returns ID and JSON of these events, in no order."""
    return await connection.fetch(
        "SELECT event_id, json FROM events WHERE event_id = ANY($1::text[])", list(event_ids)
    )


async def refs(connection: Connection, events: Collection[tuple[int, int]]) -> list[Row]:
    """Returns the columns of events that state uses, given as (room_row_id, event_row_id): row_id,
    ID, type, state_key, membership."""
    return await connection.fetch(
        "SELECT event_row_id, event_id, type, state_key, membership FROM events"
        " JOIN unnest($1::bigint[], $2::bigint[]) AS u (room_row_id, event_row_id)"
        " USING (room_row_id, event_row_id)",
        [room_row_id for room_row_id, _ in events],
        [event_row_id for _, event_row_id in events],
    )


async def refs_by_id(connection: Connection, event_ids: Collection[str]) -> list[Row]:
    """Returns the same as `refs`, of events given by ID."""
    return await connection.fetch(
        "SELECT event_row_id, event_id, type, state_key, membership FROM events"
        " WHERE event_id = ANY($1::text[])",
        list(event_ids),
    )


async def snapshot_after(connection: Connection, room_row_id: int, event_id: str) -> int | None:
    """Returns the snapshot after an event that has a known place in the graph."""
    row_id: int | None = await connection.fetchval(
        "SELECT snapshot_after FROM events WHERE room_row_id = $1 AND event_id = $2"
        " AND NOT outlier",
        room_row_id,
        event_id,
    )
    return row_id


async def snapshot_before(connection: Connection, room_row_id: int, event_id: str) -> int | None:
    """Returns the snapshot before an event that has a known place in the graph."""
    row_id: int | None = await connection.fetchval(
        "SELECT snapshot_before FROM events WHERE room_row_id = $1 AND event_id = $2"
        " AND NOT outlier",
        room_row_id,
        event_id,
    )
    return row_id


async def snapshots_around(
    connection: Connection, room_row_id: int, event_ids: Collection[str]
) -> list[Row]:
    """Returns (event_id, snapshot_before, snapshot_after) of those events that have a known place
    in the graph."""
    return await connection.fetch(
        "SELECT event_id, snapshot_before, snapshot_after FROM events"
        " WHERE room_row_id = $1 AND event_id = ANY($2::text[]) AND NOT outlier",
        room_row_id,
        list(event_ids),
    )


async def heads(connection: Connection, events: Sequence[tuple[int, int]]) -> list[Row]:
    """Returns the columns of forward extremities that rooms use, given as (room_row_id,
    event_row_id)."""
    return await connection.fetch(
        "SELECT room_row_id, event_row_id, event_id, json, snapshot_after FROM events"
        " JOIN unnest($1::bigint[], $2::bigint[]) AS u (room_row_id, event_row_id)"
        " USING (room_row_id, event_row_id)",
        [room_row_id for room_row_id, _ in events],
        [event_row_id for _, event_row_id in events],
    )


async def newest_of_each(
    connection: Connection, room_row_ids: Sequence[int], limit: int
) -> list[Row]:
    """Returns the newest live events of each room, newest first."""
    return await connection.fetch(
        "SELECT e.* FROM unnest($1::bigint[]) AS u (room_row_id) CROSS JOIN LATERAL ("
        " SELECT * FROM events WHERE room_row_id = u.room_row_id"
        " AND live_index IS NOT NULL AND gap_index = 0"
        " ORDER BY live_index DESC LIMIT $2) e",
        list(room_row_ids),
        limit,
    )


async def newest(
    connection: Connection, room_row_id: int, *, after: int, up_to: int, limit: int
) -> list[Row]:
    """Returns live events with after < position <= up_to, newest first. Within a room, `live_index`
    and `position` of live events grow together, so the walk down the order index stops at
    `limit`."""
    return await connection.fetch(
        "SELECT * FROM events WHERE room_row_id = $1 AND live_index IS NOT NULL AND gap_index = 0"
        " AND position > $2 AND position <= $3 ORDER BY live_index DESC LIMIT $4",
        room_row_id,
        after,
        up_to,
        limit,
    )


async def before(
    connection: Connection, room_row_id: int, order: tuple[int, int], limit: int
) -> list[Row]:
    """Returns events before a place, newest first."""
    return await connection.fetch(
        "SELECT * FROM events WHERE room_row_id = $1 AND live_index IS NOT NULL"
        " AND (live_index, gap_index) < ($2, $3)"
        " ORDER BY live_index DESC, gap_index DESC LIMIT $4",
        room_row_id,
        *order,
        limit,
    )


async def behind(
    connection: Connection, room_row_id: int, order: tuple[int, int], limit: int
) -> list[Row]:
    """Returns events after a place, oldest first."""
    return await connection.fetch(
        "SELECT * FROM events WHERE room_row_id = $1 AND live_index IS NOT NULL"
        " AND (live_index, gap_index) > ($2, $3) ORDER BY live_index, gap_index LIMIT $4",
        room_row_id,
        *order,
        limit,
    )


async def order_at(
    connection: Connection, room_row_id: int, position: int
) -> tuple[int, int] | None:
    """Returns the place of the newest live event at or before a log position."""
    row = await connection.fetchrow(
        "SELECT live_index, gap_index FROM events WHERE room_row_id = $1"
        " AND live_index IS NOT NULL AND gap_index = 0"
        " AND position <= $2 ORDER BY live_index DESC LIMIT 1",
        room_row_id,
        position,
    )
    return (row["live_index"], row["gap_index"]) if row else None


async def first_depth(connection: Connection, room_row_id: int) -> int:
    """Returns the depth that the oldest live event of a room claims; 0 without one."""
    json: bytes | None = await connection.fetchval(
        "SELECT json FROM events WHERE room_row_id = $1 AND live_index IS NOT NULL"
        " AND gap_index = 0 ORDER BY live_index LIMIT 1",
        room_row_id,
    )
    return 0 if json is None else int(orjson.loads(json)["depth"])


async def state_events(
    connection: Connection, room_row_id: int, *, after: int, limit: int
) -> list[Row]:
    """Returns a room's state events, of any verdict, with a row number past `after`, in its
    order.
    """
    return await connection.fetch(
        "SELECT event_row_id, event_id, json FROM events WHERE room_row_id = $1"
        " AND event_row_id > $2 AND state_key IS NOT NULL ORDER BY event_row_id LIMIT $3",
        room_row_id,
        after,
        limit,
    )


async def lowest_gap_index(connection: Connection, room_row_id: int, live_index: int) -> int:
    """Returns the lowest `gap_index` below live event `live_index` (0: no history was fetched
    there)."""
    value: int | None = await connection.fetchval(
        "SELECT min(gap_index) FROM events WHERE room_row_id = $1 AND live_index = $2",
        room_row_id,
        live_index,
    )
    return value or 0


async def redact(
    connection: Connection, room_row_id: int, event_id: str, *, json: bytes, redacted_by: str
) -> None:
    """Replaces an event's bytes by its redacted form; from now on the redaction is shown to
    clients.
    """
    await connection.execute(
        "UPDATE events SET json = $3, redacted_by = $4 WHERE room_row_id = $1 AND event_id = $2",
        room_row_id,
        event_id,
        json,
        redacted_by,
    )
    await connection.execute(
        "UPDATE events SET redacts = $2 WHERE room_row_id = $1 AND event_id = $3",
        room_row_id,
        event_id,
        redacted_by,
    )


_IS_OWED = (
    "e.live_index IS NOT NULL AND e.gap_index = 0 AND e.position > $2 AND e.position >="
    " s.joined_position"
    " AND (s.left_position IS NULL OR e.position <= s.left_position)"
    " AND e.to_federate AND right(e.sender, length($4)) <> $4"
)
_ALL_OWED = (
    "SELECT DISTINCT ON (e.position) e.position, e.event_row_id, e.json FROM room_servers s"
    " JOIN room_heads h USING (room_row_id)"
    f" JOIN events e ON e.room_row_id = s.room_row_id AND {_IS_OWED}"
    " WHERE s.server = $1 AND h.position > $2 ORDER BY e.position LIMIT $3"
)
_LATEST_OWED = (
    "SELECT DISTINCT ON (e.position) e.position, e.event_row_id, e.json FROM room_servers s"
    " JOIN room_heads h USING (room_row_id) CROSS JOIN LATERAL"
    f" ((SELECT e.event_row_id FROM events e WHERE e.room_row_id = s.room_row_id AND {_IS_OWED}"
    "  ORDER BY e.live_index DESC LIMIT 1) UNION SELECT unnest(h.heads)) AS k (event_row_id)"
    " JOIN events e ON e.room_row_id = s.room_row_id"
    f" AND e.event_row_id = k.event_row_id AND {_IS_OWED}"
    " WHERE s.server = $1 AND h.position > $2"
    " AND (s.left_position IS NULL OR s.left_position > $2) ORDER BY e.position LIMIT $3"
)
_BESIDE_JOINS = (
    "SELECT s.joined_position, e.event_row_id, e.json FROM room_servers s"
    " JOIN room_heads h USING (room_row_id) JOIN events e ON e.room_row_id = s.room_row_id"
    "  AND e.event_row_id = ANY(h.heads) AND e.gap_index = 0 AND e.position < s.joined_position"
    "  AND e.to_federate AND right(e.sender, length($4)) <> $4"
    " WHERE s.server = $1 AND s.left_position IS NULL AND s.joined_position > $2"
)


async def owed(
    connection: Connection,
    server: str,
    *,
    after: int,
    limit: int,
    suffix: str,
    latest: bool = False,
) -> list[Row]:
    """Returns our events that `server` hasn't been sent: in rooms where it was at the time, or
    events that made it leave; with `latest` those that lead to all others, the newest event of each
    room and the room's heads. At the place of its join, heads beside it. Events at one position may
    exceed `limit`. `suffix` is its name behind a colon: its own events are left out."""
    found = _LATEST_OWED if latest else _ALL_OWED
    return await connection.fetch(
        "SELECT position, json FROM (SELECT DISTINCT ON (position, event_row_id) position, json"
        f" FROM (({found}) UNION ALL ({_BESIDE_JOINS})) AS o (position, event_row_id, json)) d"
        " ORDER BY position FETCH FIRST $3 ROWS WITH TIES",
        server,
        after,
        limit,
        suffix,
    )
