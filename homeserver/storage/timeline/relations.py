"""Reads of related events: the children of an event, what is bundled with it, and threads.

Rules:
1. A child counts if it has a place in the room (so it is neither an outlier nor refused), isn't
   redacted (that ends its relation), isn't by a hidden sender, and is committed up to a position.
2. Children are found by indexes over related events alone. A page reads as many of them as it has
   events; only a count reads all the events of a thread.

Spec: client-server API, "Forming relationships between events".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from federation.events.ids import EventId
from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.timeline.events import READ, StoredEventRow, stored

Order = tuple[int, int]


class Parent(msgspec.Struct, frozen=True):
    """An event whose children are asked for. `type` is in its stored form. `has_edits` and
    `has_thread`: whether it may have these children. A reader surely sees children after the
    position `sure_after` whose state is still the room's current one (`snapshot`); `joined_until`:
    the place at which their time in the room ended."""

    room_row_id: int
    event_id: EventId
    sender: str
    type: str
    has_edits: bool
    has_thread: bool
    sure_after: int
    snapshot: int
    joined_until: Order


class Scope(msgspec.Struct, frozen=True):
    """Which children count: those up to a position, of senders who aren't hidden. `own` ends the
    IDs of this server's users."""

    user_id: str
    position: int
    hidden: Collection[str]
    own: str


class ChildGroup(msgspec.Struct, frozen=True):
    """Children of an event with the same states around them, so that a reader sees all of them or
    none: `sample` is one of them. `is_sure`: they are seen; `is_earlier`: they were sent before the
    reader's time in the room ended."""

    parent: EventId
    sample: EventId
    number: int
    is_sure: bool
    is_earlier: bool


class Bundled(msgspec.Struct, frozen=True):
    """What is bundled with some events: by parent, the newest edit and the newest event of the
    thread; groups of the thread's events, references in the room's order, and the threads in which
    the reader spoke."""

    edits: dict[EventId, StoredEventRow] = {}
    latest: dict[EventId, StoredEventRow] = {}
    counts: list[ChildGroup] = []
    references: list[ChildGroup] = []
    participated: set[EventId] = set()


class WantedChildren(msgspec.Struct, frozen=True):
    """Which children of an event are asked for: by the kind of their relation, and by their type
    in its stored form (None: any)."""

    room_row_id: int
    parent: str
    rel_type: str | None = None
    event_type: str | None = None


class OrderSpan(msgspec.Struct, frozen=True):
    """A part of a room's order: from `start` on (backwards: before it), up to `stop`."""

    start: Order
    stop: Order | None
    backwards: bool
    limit: int


class ThreadWalk(msgspec.Struct, frozen=True):
    """A part of a room's threads: those other than `but` with events before a place. Events from
    `ceiling` on don't count."""

    before: Order
    ceiling: Order
    but: Collection[str]
    limit: int


class ThreadEventRow(msgspec.Struct, frozen=True, gc=False):
    """An event of a thread: its place, and the thread's root; `is_newest`: no event of the thread
    lies behind it."""

    live_index: int
    gap_index: int
    event_id: EventId
    root: EventId
    is_newest: bool

    @property
    def order(self) -> Order:
        """Returns the event's place."""
        return self.live_index, self.gap_index


_COUNTS: Final = (
    "c.live_index IS NOT NULL AND c.sender <> ALL($1::text[])"
    " AND (c.position IS NULL OR c.position <= $2)"
)
_OF_PARENT: Final = f"c.room_row_id = p.room_row_id AND c.relates_to = p.event_id AND {_COUNTS}"
_GROUP: Final = (
    "coalesce(c.position > p.sure_after AND (c.snapshot_after = p.snapshot"
    " OR right(c.sender, char_length($4)) = $4), false) AS is_sure,"
    " (c.live_index, c.gap_index) < (p.until_live, p.until_gap) AS is_earlier"
)
_NOTHING: Final = ", ".join("NULL" for _ in StoredEventRow.__struct_fields__)
_ROW: Final = READ.replace("e.", "c.")

_BUNDLED: Final = f"""
WITH asked AS MATERIALIZED (
    SELECT p.* FROM unnest($6::bigint[], $7::text[], $8::text[], $9::text[], $10::boolean[],
        $11::boolean[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[])
    AS p (room_row_id, event_id, sender, type, has_edits, has_thread, sure_after, snapshot,
        until_live, until_gap)
    WHERE EXISTS (SELECT FROM events c WHERE {_OF_PARENT})
), latest AS MATERIALIZED (
    SELECT p.event_id AS parent, p.sure_after, p.snapshot, p.until_live, p.until_gap, {_ROW}
    FROM asked p CROSS JOIN LATERAL (
        SELECT * FROM events c WHERE {_OF_PARENT} AND c.rel_type = 'm.thread'
        ORDER BY c.live_index DESC, c.gap_index DESC LIMIT 1) c
    WHERE p.has_thread
), parents AS MATERIALIZED (
    SELECT room_row_id, event_id, sender, type, has_edits, sure_after, snapshot, until_live,
        until_gap FROM asked
    UNION ALL
    SELECT room_row_id, event_id, sender, type, state_key IS NULL, sure_after, snapshot,
        until_live, until_gap FROM latest
    WHERE event_id NOT IN (SELECT event_id FROM asked)
), grouped AS (
    SELECT p.event_id AS parent, c.event_id, c.snapshot_before, c.snapshot_after, {_GROUP}
    FROM asked p JOIN events c ON {_OF_PARENT} AND c.rel_type = 'm.thread' WHERE p.has_thread
)
SELECT 'latest', c.parent, NULL, NULL::bigint, NULL::boolean, NULL::boolean, {_ROW} FROM latest c
UNION ALL
SELECT 'edit', p.event_id, NULL, NULL, NULL, NULL, {_ROW} FROM parents p CROSS JOIN LATERAL (
    SELECT * FROM events c WHERE {_OF_PARENT} AND c.rel_type = 'm.replace' AND c.sender = p.sender
        AND c.type = p.type AND c.edited_ms IS NOT NULL
    ORDER BY c.edited_ms DESC, c.event_id DESC LIMIT 1) c
    WHERE p.has_edits
UNION ALL
SELECT 'count', parent, min(event_id), count(*), is_sure, is_earlier, {_NOTHING} FROM grouped
    GROUP BY parent, is_sure, is_earlier, CASE WHEN NOT is_sure THEN snapshot_before END,
        CASE WHEN NOT is_sure THEN snapshot_after END
UNION ALL
SELECT 'reference', p.event_id, c.event_id, 1, c.is_sure, c.is_earlier, {_NOTHING}
    FROM parents p CROSS JOIN LATERAL (
    SELECT c.event_id, {_GROUP} FROM events c WHERE {_OF_PARENT} AND c.rel_type = 'm.reference'
    ORDER BY c.live_index, c.gap_index LIMIT $5) c
UNION ALL
SELECT 'participated', p.event_id, NULL, NULL, NULL, NULL, {_NOTHING} FROM asked p
    WHERE p.has_thread AND EXISTS (SELECT FROM events c WHERE {_OF_PARENT}
        AND c.rel_type = 'm.thread' AND c.sender = $3)
"""

_OF_ONE: Final = f"c.room_row_id = $3 AND c.relates_to = $4 AND {_COUNTS}"
_IS_WANTED: Final = "($5::text IS NULL OR c.rel_type = $5) AND ($6::text IS NULL OR c.type = $6)"

_KINDS: Final = f"""
WITH RECURSIVE kinds AS (
    (SELECT c.rel_type FROM events c WHERE {_OF_ONE} ORDER BY c.rel_type LIMIT 1)
    UNION ALL
    SELECT (SELECT c.rel_type FROM events c WHERE {_OF_ONE} AND c.rel_type > k.rel_type
        ORDER BY c.rel_type LIMIT 1) FROM kinds k WHERE k.rel_type IS NOT NULL
)
"""

_DESCENDANTS: Final = f"""
WITH RECURSIVE related AS (
    SELECT c.event_id, c.event_row_id, c.live_index, c.gap_index, 1 AS depth
    FROM events c WHERE {_OF_ONE} AND {_IS_WANTED}
    UNION ALL
    SELECT c.event_id, c.event_row_id, c.live_index, c.gap_index, r.depth + 1
    FROM related r JOIN events c ON c.room_row_id = $3 AND c.relates_to = r.event_id
        AND {_COUNTS} AND {_IS_WANTED}
    WHERE r.depth < $7
), bounded AS MATERIALIZED (
    SELECT * FROM related LIMIT $8
)
"""

_IN_THREAD: Final = (
    f"c.room_row_id = $3 AND c.rel_type = 'm.thread' AND {_COUNTS}"
    " AND (c.live_index, c.gap_index) < ($6, $7)"
)
# One step for each thread: events of threads that were met are passed over in the index.
_THREADS: Final = f"""
WITH RECURSIVE walk AS (
    (SELECT c.live_index, c.gap_index, c.event_id, c.relates_to AS root,
        $8::text[] || c.relates_to AS met, 1 AS number
    FROM events c WHERE {_IN_THREAD} AND (c.live_index, c.gap_index) < ($4, $5)
        AND c.relates_to <> ALL($8::text[])
    ORDER BY c.live_index DESC, c.gap_index DESC LIMIT 1)
    UNION ALL
    SELECT n.* FROM walk w CROSS JOIN LATERAL (
        SELECT c.live_index, c.gap_index, c.event_id, c.relates_to, w.met || c.relates_to,
            w.number + 1
        FROM events c WHERE {_IN_THREAD}
            AND (c.live_index, c.gap_index) < (w.live_index, w.gap_index)
            AND c.relates_to <> ALL(w.met)
        ORDER BY c.live_index DESC, c.gap_index DESC LIMIT 1) n
    WHERE w.number < $9
)
SELECT w.live_index, w.gap_index, w.event_id, w.root, NOT EXISTS (
    SELECT FROM events c WHERE {_IN_THREAD} AND c.relates_to = w.root
        AND (c.live_index, c.gap_index) > (w.live_index, w.gap_index)) AS is_newest
FROM walk w ORDER BY w.live_index DESC, w.gap_index DESC
"""


def _within(span: OrderSpan, first: int) -> tuple[str, list[int]]:
    """Returns the condition of a span on `c`, from parameter `first` on, and its parameters."""
    place = "(c.live_index, c.gap_index)"
    condition = f"{place} {'<' if span.backwards else '>='} (${first}, ${first + 1})"
    if span.stop is None:
        return condition, [*span.start]
    stop = f"{place} {'>=' if span.backwards else '<'} (${first + 2}, ${first + 3})"
    return f"{condition} AND {stop}", [*span.start, *span.stop]


def _ordered(span: OrderSpan) -> str:
    way = "DESC" if span.backwards else "ASC"
    return f"ORDER BY c.live_index {way}, c.gap_index {way} LIMIT {span.limit}"


class RelationTable:
    """Related events of all rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bundled(
        self, parents: Sequence[Parent], scope: Scope, *, most_references: int
    ) -> Bundled:
        """Returns what is bundled with events, and with the newest events of their threads; only
        the first `most_references` references of each."""
        rows = await self._database.fetch(
            _BUNDLED,
            list(scope.hidden),
            scope.position,
            scope.user_id,
            scope.own,
            most_references,
            [one.room_row_id for one in parents],
            [one.event_id for one in parents],
            [one.sender for one in parents],
            [one.type for one in parents],
            [one.has_edits for one in parents],
            [one.has_thread for one in parents],
            [one.sure_after for one in parents],
            [one.snapshot for one in parents],
            [one.joined_until[0] for one in parents],
            [one.joined_until[1] for one in parents],
        )
        return _bundled(rows)

    async def edits(
        self, parent: Parent, scope: Scope, *, skip: int, limit: int
    ) -> list[StoredEventRow]:
        """Returns edits of an event, the newest first, without the first `skip`."""
        rows = await self._database.fetch(
            f"SELECT {_ROW} FROM events c WHERE {_OF_ONE} AND c.rel_type = 'm.replace'"
            " AND c.sender = $5 AND c.type = $6 AND c.edited_ms IS NOT NULL"
            " ORDER BY c.edited_ms DESC, c.event_id DESC OFFSET $7 LIMIT $8",
            list(scope.hidden),
            scope.position,
            parent.room_row_id,
            parent.event_id,
            parent.sender,
            parent.type,
            skip,
            limit,
        )
        return stored(rows)

    async def children(
        self, wanted: WantedChildren, scope: Scope, span: OrderSpan
    ) -> list[StoredEventRow]:
        """Returns children of an event in a part of the room's order, the first `span.limit` in the
        direction of reading."""
        within, places = _within(span, 7)
        known = [list(scope.hidden), scope.position, wanted.room_row_id, wanted.parent]
        if wanted.rel_type is not None:
            statement = (
                f"SELECT {_ROW} FROM events c WHERE {_OF_ONE} AND c.rel_type = $5"
                f" AND ($6::text IS NULL OR c.type = $6) AND {within} {_ordered(span)}"
            )
        else:
            statement = (
                f"{_KINDS} SELECT {_ROW} FROM kinds k CROSS JOIN LATERAL (SELECT c.* FROM events c"
                f" WHERE {_OF_ONE} AND c.rel_type = k.rel_type AND {_IS_WANTED} AND {within}"
                f" {_ordered(span)}) c {_ordered(span)}"
            )
        rows = await self._database.fetch(
            statement, *known, wanted.rel_type, wanted.event_type, *places
        )
        return stored(rows)

    async def descendants(
        self, wanted: WantedChildren, scope: Scope, span: OrderSpan, *, depth: int, most: int
    ) -> list[StoredEventRow] | None:
        """Returns the same of the children, their children and so on, down to `depth`; None if
        there are more than `most` of them in the room."""
        within, places = _within(span, 9)
        rows = await self._database.fetch(
            f"{_DESCENDANTS} SELECT {_ROW}, b.number FROM (SELECT count(*) AS number FROM bounded)"
            " b LEFT JOIN LATERAL (SELECT DISTINCT ON (c.live_index, c.gap_index) c.event_row_id"
            f" FROM bounded c WHERE {within} AND c.event_id <> $4 {_ordered(span)}) d ON true"
            " LEFT JOIN events c ON c.room_row_id = $3 AND c.event_row_id = d.event_row_id"
            f" {_ordered(span)}",
            list(scope.hidden),
            scope.position,
            wanted.room_row_id,
            wanted.parent,
            wanted.rel_type,
            wanted.event_type,
            depth,
            most + 1,
            *places,
        )
        if rows and rows[0]["number"] > most:
            return None
        return stored(row[:-1] for row in rows if row["event_id"] is not None)

    async def in_threads(
        self, room_row_id: int, scope: Scope, walk: ThreadWalk
    ) -> list[ThreadEventRow]:
        """Returns the newest event of each of a room's threads in a part of its order, the newest
        first: at most `walk.limit`."""
        rows = await self._database.fetch(
            _THREADS,
            list(scope.hidden),
            scope.position,
            room_row_id,
            *walk.before,
            *walk.ceiling,
            list(walk.but),
            walk.limit,
        )
        return [ThreadEventRow(*row) for row in rows]

    async def related_by(
        self,
        room_row_id: int,
        event_ids: Collection[str],
        scope: Scope,
        *,
        before: tuple[int, int],
        senders: Collection[str] | None,
        rel_types: Collection[str] | None,
    ) -> set[EventId]:
        """Returns those of the events that have a child before a place, by one of some senders and
        of one of some kinds (None: any)."""
        rows = await self._database.fetch(
            "SELECT p.event_id FROM unnest($4::text[]) AS p (event_id) WHERE EXISTS ("
            f"SELECT FROM events c WHERE c.room_row_id = $3 AND c.relates_to = p.event_id"
            f" AND {_COUNTS} AND ($5::text[] IS NULL OR c.sender = ANY($5))"
            " AND ($6::text[] IS NULL OR c.rel_type = ANY($6))"
            " AND (c.live_index, c.gap_index) < ($7, $8))",
            list(scope.hidden),
            scope.position,
            room_row_id,
            list(event_ids),
            None if senders is None else list(senders),
            None if rel_types is None else list(rel_types),
            *before,
        )
        return {row["event_id"] for row in rows}

    async def annotations(
        self, room_row_id: int, parent: str, sender: str, event_type: str
    ) -> list[bytes]:
        """Returns the JSON of a user's annotations of an event that have a type (in its stored
        form): at most `ANNOTATIONS_PER_USER`.
        """
        rows = await self._database.fetch(
            "SELECT json FROM events WHERE room_row_id = $1 AND relates_to = $2"
            " AND rel_type = 'm.annotation' AND sender = $3 AND type = $4"
            " AND live_index IS NOT NULL LIMIT $5",
            room_row_id,
            parent,
            sender,
            event_type,
            limits.ANNOTATIONS_PER_USER,
        )
        return [row["json"] for row in rows]


def _bundled(rows: Sequence[Sequence[Any]]) -> Bundled:
    found = Bundled({}, {}, [], [], set())
    for kind, parent, sample, number, is_sure, is_earlier, *row in rows:
        if kind == "latest":
            [found.latest[parent]] = stored([row])
        elif kind == "edit":
            [found.edits[parent]] = stored([row])
        elif kind == "participated":
            found.participated.add(parent)
        else:
            group = ChildGroup(parent, sample, number, is_sure, is_earlier)
            (found.counts if kind == "count" else found.references).append(group)
    return found
