"""Events as rows. Owns the table `events`.

An event's place is `(live_index, gap_index)`: live ones `(live_index, 0)`, history fetched before
them `(live_index, -1)`, ... Rows without `live_index` have no place: outliers, rejected and
soft-failed events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from typing import Any

import asyncpg
import msgspec
import orjson

from federation.events.ids import EventId, RoomId, UserId
from homeserver.storage.database import Connection, Database


class StoredVerdict(IntEnum):
    """The verdict on an event: soft-failed and rejected events have no place."""

    ACCEPTED = 0
    SOFT_FAILED = 1
    REJECTED = 2


class Refusal(msgspec.Struct, frozen=True):
    """The reason why an event was soft-failed or rejected: as text, and the name of the auth rule,
    if it was refused by one."""

    reason: str
    rule: str | None = None


class EventRow(msgspec.Struct, frozen=True):
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
    verdict: StoredVerdict
    reason: str | None
    rule: str | None
    outlier: bool
    unverified: bool
    to_federate: bool
    snapshot_before: int | None
    snapshot_after: int | None
    replaces: str | None
    redacted_by: str | None
    transaction_of: str | None
    json: bytes
    relates_to: str | None = None
    rel_type: str | None = None
    edited_ms: int | None = None
    sent_ms: int | None = None

    def decided(self, verdict: StoredVerdict, refusal: Refusal | None) -> EventRow:
        """Returns the row with this verdict, and the reason for one that refuses the event."""
        return msgspec.structs.replace(
            self,
            verdict=verdict,
            reason=None if refusal is None else refusal.reason,
            rule=None if refusal is None else refusal.rule,
        )

    def at(self, order: tuple[int, int]) -> EventRow:
        """Returns the row at a place in the room's order, (live_index, gap_index)."""
        return msgspec.structs.replace(self, live_index=order[0], gap_index=order[1])

    def without_place(self) -> EventRow:
        """Returns the row of an event that is neither in the log nor in the room's order."""
        return msgspec.structs.replace(self, position=None, live_index=None, gap_index=None)


class StoredEventRow(msgspec.Struct, frozen=True):
    """One stored event."""

    verdict: StoredVerdict
    room_row_id: int
    event_row_id: int
    event_id: EventId
    type: str
    state_key: str | None
    sender: UserId
    membership: str | None
    position: int | None
    live_index: int | None
    gap_index: int | None
    reason: str | None
    rule: str | None
    outlier: bool
    unverified: bool
    to_federate: bool
    snapshot_before: int | None
    snapshot_after: int | None
    replaces: EventId | None
    redacted_by: EventId | None
    transaction_of: str | None
    json: bytes
    redacts: EventId | None

    @property
    def refusal(self) -> Refusal | None:
        """Returns the reason for a verdict that refuses the event."""
        return None if self.reason is None else Refusal(self.reason, self.rule)

    @property
    def order(self) -> tuple[int, int] | None:
        """Returns the place in the room's order, (live_index, gap_index), if there is one."""
        if self.live_index is None or self.gap_index is None:
            return None
        return self.live_index, self.gap_index

    @property
    def place(self) -> tuple[int, int]:
        """Returns the place of an event that has one."""
        order = self.order
        assert order is not None, "events in room order have a place"
        return order

    @property
    def state_before(self) -> int:
        """Returns the snapshot before an event that isn't an outlier."""
        assert self.snapshot_before is not None, "the state before it is known"
        return self.snapshot_before

    @property
    def state_after(self) -> int:
        """Returns the snapshot after an event that isn't an outlier."""
        assert self.snapshot_after is not None, "the state after it is known"
        return self.snapshot_after

    def to_write(self) -> EventRow:
        """Returns the row as it is, to change and write: its relation stays as it is stored."""
        return EventRow(*(getattr(self, name) for name in _COLUMNS if hasattr(self, name)))


class RoomEventRow(StoredEventRow, frozen=True):
    """One stored event, with the ID and version of its room."""

    room_id: RoomId
    version: str


class EventRefRow(msgspec.Struct, frozen=True, gc=False):
    """What state uses of an event."""

    event_row_id: int
    event_id: EventId
    type: str
    state_key: str | None
    membership: str | None


class EventJsonRow(msgspec.Struct, frozen=True, gc=False):
    """An event, unparsed."""

    event_row_id: int
    event_id: EventId
    json: bytes


class HeadRow(msgspec.Struct, frozen=True, gc=False):
    """A forward extremity of a room, and the snapshot after it."""

    room_row_id: int
    event_row_id: int
    event_id: EventId
    json: bytes
    snapshot_after: int


class SnapshotsAroundRow(msgspec.Struct, frozen=True, gc=False):
    """The snapshots before and after an event."""

    event_id: EventId
    snapshot_before: int
    snapshot_after: int


_COLUMNS = EventRow.__struct_fields__
_TYPES = (  # noqa: SIM905 - a table in two lines
    "bigint bigint text text text text text bigint bigint bigint smallint text text boolean"
    " boolean boolean bigint bigint text text text bytea text text bigint bigint"
).split()
COLUMNS = tuple(zip(_COLUMNS, _TYPES, strict=True))
"""Names and types."""

_UNNEST = ", ".join(f"${i + 1}::{name}[]" for i, name in enumerate(_TYPES))
_INSERT = f"INSERT INTO events ({', '.join(_COLUMNS)}) SELECT * FROM unnest({_UNNEST})"
_PLACE = (
    "UPDATE SET position = excluded.position, live_index = excluded.live_index,"
    " gap_index = excluded.gap_index,"
    " verdict = excluded.verdict, reason = excluded.reason, rule = excluded.rule,"
    " outlier = excluded.outlier,"
    " unverified = excluded.unverified, to_federate = excluded.to_federate,"
    " snapshot_before = excluded.snapshot_before, snapshot_after = excluded.snapshot_after,"
    " replaces = excluded.replaces"
)
READ = ", ".join("e." + name for name in StoredEventRow.__struct_fields__)
_VERDICTS = tuple(StoredVerdict)


def stored(rows: Iterable[Sequence[Any]]) -> list[StoredEventRow]:
    """Returns rows of the columns `READ`."""
    return [StoredEventRow(_VERDICTS[verdict], *rest) for verdict, *rest in rows]


def columns(rows: Sequence[EventRow], names: Sequence[str] = _COLUMNS) -> list[list[Any]]:
    """Returns the rows as one array for each column."""
    return [[getattr(row, name) for row in rows] for name in names]


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
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM events WHERE room_row_id = $1)", room_row_id
    )
    return found


async def redact(
    connection: Connection, room_row_id: int, event_id: str, *, json: bytes, redacted_by: str
) -> None:
    """Replaces an event by its redacted form; from now on the redaction is shown to clients."""
    await connection.execute(
        "UPDATE events SET json = $3, redacted_by = $4, relates_to = NULL, rel_type = NULL,"
        " edited_ms = NULL WHERE room_row_id = $1 AND event_id = $2",
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


class EventTable:
    """The events of all rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_id(self, event_ids: Collection[str]) -> list[RoomEventRow]:
        """Returns these events, in no order."""
        rows = await self._database.fetch(
            f"SELECT {READ}, r.room_id, r.version FROM events e JOIN rooms r USING (room_row_id)"
            " WHERE e.event_id = ANY($1::text[])",
            list(event_ids),
        )
        return [RoomEventRow(_VERDICTS[verdict], *rest) for verdict, *rest in rows]

    async def raw_by_id(self, event_ids: Collection[str]) -> dict[EventId, bytes]:
        """Returns the JSON of these events."""
        rows = await self._database.fetch(
            "SELECT event_id, json FROM events WHERE event_id = ANY($1::text[])", list(event_ids)
        )
        return {row["event_id"]: row["json"] for row in rows}

    async def refs(self, events: Collection[tuple[int, int]]) -> list[EventRefRow]:
        """Returns what state uses of events, given as (room_row_id, event_row_id)."""
        rows = await self._database.fetch(
            "SELECT event_row_id, event_id, type, state_key, membership FROM events"
            " JOIN unnest($1::bigint[], $2::bigint[]) AS u (room_row_id, event_row_id)"
            " USING (room_row_id, event_row_id)",
            [room_row_id for room_row_id, _ in events],
            [event_row_id for _, event_row_id in events],
        )
        return [EventRefRow(*row) for row in rows]

    async def refs_by_id(self, event_ids: Collection[str]) -> list[EventRefRow]:
        """Returns the same as `refs`, of events given by ID."""
        rows = await self._database.fetch(
            "SELECT event_row_id, event_id, type, state_key, membership FROM events"
            " WHERE event_id = ANY($1::text[])",
            list(event_ids),
        )
        return [EventRefRow(*row) for row in rows]

    async def snapshot_before(self, room_row_id: int, event_id: str) -> int | None:
        """Returns the snapshot before an event that has a known place in the graph."""
        row_id: int | None = await self._database.fetchval(
            "SELECT snapshot_before FROM events WHERE room_row_id = $1 AND event_id = $2"
            " AND NOT outlier",
            room_row_id,
            event_id,
        )
        return row_id

    async def snapshot_after(self, room_row_id: int, event_id: str) -> int | None:
        """Returns the snapshot after an event that has a known place in the graph."""
        row_id: int | None = await self._database.fetchval(
            "SELECT snapshot_after FROM events WHERE room_row_id = $1 AND event_id = $2"
            " AND NOT outlier",
            room_row_id,
            event_id,
        )
        return row_id

    async def snapshots_around(
        self, room_row_id: int, event_ids: Collection[str]
    ) -> list[SnapshotsAroundRow]:
        """Returns the snapshots of those events that have a known place in the graph."""
        rows = await self._database.fetch(
            "SELECT event_id, snapshot_before, snapshot_after FROM events"
            " WHERE room_row_id = $1 AND event_id = ANY($2::text[]) AND NOT outlier",
            room_row_id,
            list(event_ids),
        )
        return [SnapshotsAroundRow(*row) for row in rows]

    async def heads(self, events: Sequence[tuple[int, int]]) -> list[HeadRow]:
        """Returns forward extremities of rooms, given as (room_row_id, event_row_id)."""
        rows = await self._database.fetch(
            "SELECT room_row_id, event_row_id, event_id, json, snapshot_after FROM events"
            " JOIN unnest($1::bigint[], $2::bigint[]) AS u (room_row_id, event_row_id)"
            " USING (room_row_id, event_row_id)",
            [room_row_id for room_row_id, _ in events],
            [event_row_id for _, event_row_id in events],
        )
        return [HeadRow(*row) for row in rows]

    async def newest_of_each(self, room_row_ids: Sequence[int], limit: int) -> list[StoredEventRow]:
        """Returns the newest live events of each room, newest first."""
        rows = await self._database.fetch(
            f"SELECT {READ} FROM unnest($1::bigint[]) AS u (room_row_id) CROSS JOIN LATERAL ("
            " SELECT * FROM events WHERE room_row_id = u.room_row_id"
            " AND live_index IS NOT NULL AND gap_index = 0"
            " ORDER BY live_index DESC LIMIT $2) e",
            list(room_row_ids),
            limit,
        )
        return stored(rows)

    async def newest(
        self, room_row_id: int, *, after: int, up_to: int, limit: int
    ) -> list[StoredEventRow]:
        """Returns live events with after < position <= up_to, newest first. Within a room,
        `live_index` and `position` of live events grow together, so the walk down the order index
        stops at `limit`."""
        rows = await self._database.fetch(
            f"SELECT {READ} FROM events e WHERE room_row_id = $1"
            " AND live_index IS NOT NULL AND gap_index = 0 AND position > $2 AND position <= $3"
            " ORDER BY live_index DESC LIMIT $4",
            room_row_id,
            after,
            up_to,
            limit,
        )
        return stored(rows)

    async def before(
        self, room_row_id: int, order: tuple[int, int], limit: int
    ) -> list[StoredEventRow]:
        """Returns events before a place, newest first."""
        rows = await self._database.fetch(
            f"SELECT {READ} FROM events e WHERE room_row_id = $1 AND live_index IS NOT NULL"
            " AND (live_index, gap_index) < ($2, $3)"
            " ORDER BY live_index DESC, gap_index DESC LIMIT $4",
            room_row_id,
            *order,
            limit,
        )
        return stored(rows)

    async def behind(
        self, room_row_id: int, order: tuple[int, int], limit: int
    ) -> list[StoredEventRow]:
        """Returns events after a place, oldest first."""
        rows = await self._database.fetch(
            f"SELECT {READ} FROM events e WHERE room_row_id = $1 AND live_index IS NOT NULL"
            " AND (live_index, gap_index) > ($2, $3) ORDER BY live_index, gap_index LIMIT $4",
            room_row_id,
            *order,
            limit,
        )
        return stored(rows)

    async def order_at(self, room_row_id: int, position: int) -> tuple[int, int] | None:
        """Returns the place of the newest live event at or before a log position."""
        row = await self._database.fetchrow(
            "SELECT live_index, gap_index FROM events WHERE room_row_id = $1"
            " AND live_index IS NOT NULL AND gap_index = 0"
            " AND position <= $2 ORDER BY live_index DESC LIMIT 1",
            room_row_id,
            position,
        )
        return (row["live_index"], row["gap_index"]) if row else None

    async def first_depth(self, room_row_id: int) -> int:
        """Returns the depth that the oldest live event of a room claims; 0 without one."""
        json: bytes | None = await self._database.fetchval(
            "SELECT json FROM events WHERE room_row_id = $1 AND live_index IS NOT NULL"
            " AND gap_index = 0 ORDER BY live_index LIMIT 1",
            room_row_id,
        )
        return 0 if json is None else int(orjson.loads(json)["depth"])

    async def state_events(self, room_row_id: int, *, after: int, limit: int) -> list[EventJsonRow]:
        """Returns a room's state events, of any verdict, with numbers past `after`, in order."""
        rows = await self._database.fetch(
            "SELECT event_row_id, event_id, json FROM events WHERE room_row_id = $1"
            " AND event_row_id > $2 AND state_key IS NOT NULL ORDER BY event_row_id LIMIT $3",
            room_row_id,
            after,
            limit,
        )
        return [EventJsonRow(*row) for row in rows]

    async def lowest_gap_index(self, room_row_id: int, live_index: int) -> int:
        """Returns the lowest `gap_index` below live event `live_index` (0: no history was fetched
        there)."""
        value: int | None = await self._database.fetchval(
            "SELECT min(gap_index) FROM events WHERE room_row_id = $1 AND live_index = $2",
            room_row_id,
            live_index,
        )
        return value or 0

    async def with_place(self, room_row_id: int, *, after: int, limit: int) -> list[EventJsonRow]:
        """Returns the events of a room whose place in the graph is known, rejected ones included,
        with a row number past `after`, in its order."""
        rows = await self._database.fetch(
            "SELECT event_row_id, event_id, json FROM events"
            " WHERE room_row_id = $1 AND event_row_id > $2 AND NOT outlier"
            " ORDER BY event_row_id LIMIT $3",
            room_row_id,
            after,
            limit,
        )
        return [EventJsonRow(*row) for row in rows]
