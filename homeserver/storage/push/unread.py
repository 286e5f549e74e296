"""Unread notifications. Owns `push_events`, `push_rooms`, `push_reads`, `push_counts` and
`push_position`.

Rules:
1. One transaction writes a stretch of the log and its position: after a crash the rest is made
   again, and nothing is counted twice.
2. The transaction doesn't wait for the disk, since all of it can be made again from the log.
   What is committed after it reaches the disk only together with it.

Spec: client-server API, "Receiving notifications".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from federation.events.ids import EventId, RoomId, UserId
from homeserver.rules.push.unread import (
    NEVER,
    WHOLE_ROOM,
    Count,
    EventLevels,
    ReadMarks,
    ThreadCounts,
)
from homeserver.storage.database import Connection, Database
from homeserver.storage.text import array_text

_LEVEL = "coalesce({e}.other_levels[array_position({e}.other_users, {user})], {e}.usual)"


class RoomState(msgspec.Struct):
    """What a user has read in a room, and their counts there. `moved` are the threads whose marks
    are new; `had_counts`: others are stored; `is_new`: nothing that was stored counts any more."""

    marks: ReadMarks
    counts: ThreadCounts
    counted_to: int = NEVER
    moved: set[str] = set()
    had_counts: bool = False
    is_new: bool = False


class RoomSum(msgspec.Struct, frozen=True):
    """The events of a room up to a place, added to the counts of its members."""

    room_id: RoomId
    summed_to: int
    added: Sequence[tuple[UserId, ThreadCounts]]


class PushWrites(msgspec.Struct):
    """The changes of a stretch of the log that ends at `position`. `opened` are rooms that have
    events beyond their sum now and had none before; the users of `gone` left a room."""

    position: int = 0
    events: list[tuple[RoomId, EventLevels]] = []
    states: dict[tuple[RoomId, UserId], RoomState] = {}
    gone: set[tuple[RoomId, UserId]] = set()
    opened: set[RoomId] = set()
    redacted: list[EventId] = []
    sums: list[RoomSum] = []

    @property
    def is_plain(self) -> bool:
        """Returns whether stored counts, and the lists of rooms, stay as they are."""
        is_kept = not (self.gone or self.opened or self.redacted or self.sums)
        return is_kept and not any(
            state.is_new or state.had_counts or state.counts for state in self.states.values()
        )

    @property
    def is_empty(self) -> bool:
        """Returns whether nothing but the position changes."""
        return not (self.events or self.states or self.gone or self.redacted or self.sums)


class PendingRow(msgspec.Struct, frozen=True):
    """A room with events beyond its sum: these, and the users who are counted beyond it."""

    room_id: RoomId
    events: Sequence[EventLevels]
    counted_to: dict[UserId, int]


async def note_redacted(connection: Connection, room_row_id: int, event_id: str) -> None:
    """Notes, in the transaction of a redaction, that the counts have to take its target back."""
    await connection.execute(
        "INSERT INTO push_redactions (room_row_id, event_id) VALUES ($1, $2)", room_row_id, event_id
    )


class UnreadTable:
    """Unread notifications of all users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def position(self) -> int | None:
        """Returns the position of the log up to which all is stored; None before the first."""
        found: int | None = await self._database.fetchval("SELECT position FROM push_position")
        return found

    async def redacted(self) -> list[tuple[RoomId, EventId]]:
        """Returns the redacted events that have to be taken back."""
        rows = await self._database.fetch(
            "SELECT room_id, event_id FROM push_redactions JOIN rooms USING (room_row_id)"
        )
        return [(RoomId(row[0]), EventId(row[1])) for row in rows]

    async def of_user(self, user_id: UserId) -> dict[RoomId, ThreadCounts]:
        """Returns a user's stored counts, by room and thread. Rooms come by their counts, of which
        there are few: for thousands of rooms that costs a third of rows."""
        rows = await self._database.fetch(
            "SELECT thread, notified, highlighted, array_agg(room_id)"
            " FROM push_counts WHERE user_id = $1 AND notified > 0 GROUP BY 1, 2, 3",
            user_id,
        )
        found: dict[RoomId, ThreadCounts] = {}
        for thread, notified, highlighted, room_ids in rows:
            counts = {thread: Count(notified, highlighted)}
            shared = [(room_id, found[room_id]) for room_id in room_ids if room_id in found]
            found.update(dict.fromkeys(room_ids, counts))
            found.update((room_id, {**others, **counts}) for room_id, others in shared)
        return found

    async def state_of(self, room_id: RoomId, user_id: UserId) -> RoomState:
        """Returns a user's stored state in a room."""
        rows = await self._database.fetch(
            "SELECT thread, read_to, counted_to, NULL AS notified, NULL AS highlighted"
            " FROM push_reads WHERE room_id = $1 AND user_id = $2 UNION ALL"
            " SELECT thread, NULL, NULL, notified, highlighted"
            " FROM push_counts WHERE room_id = $1 AND user_id = $2 AND notified > 0",
            room_id,
            user_id,
        )
        marks = {row[0]: row[1] for row in rows if row[1] is not None}
        counts = {row[0]: Count(row[3], row[4]) for row in rows if row[3] is not None}
        counted = max((row[2] for row in rows if row[2] is not None), default=NEVER)
        return RoomState(ReadMarks(marks), counts, counted, had_counts=bool(counts))

    async def count(
        self, room_id: RoomId, user_id: UserId, marks: ReadMarks, thread: str
    ) -> ThreadCounts:
        """Counts the stored events behind a user's marks: of one thread, or of all with ""."""
        level = _LEVEL.format(e="e", user="$2")
        rows = await self._database.fetch(
            "SELECT thread, count(*), count(*) FILTER (WHERE level = 2) FROM"
            f" (SELECT e.thread, {level} AS level FROM push_events e"
            "  LEFT JOIN unnest($3::text[], $4::bigint[]) AS m (thread, place)"
            "   ON m.thread = e.thread"
            "  WHERE e.room_id = $1 AND e.live_index > $5"
            "  AND e.live_index > coalesce(m.place, -1) AND ($6 = '' OR e.thread = $6)) AS l"
            " WHERE level > 0 GROUP BY thread",
            room_id,
            user_id,
            list(marks.places),
            list(marks.places.values()),
            marks.of(WHOLE_ROOM),
            thread,
        )
        return {row[0]: Count(row[1], row[2]) for row in rows}

    async def pending(self) -> list[PendingRow]:
        """Returns the rooms with events beyond their sum."""
        rows = await self._database.fetch(
            "SELECT e.room_id, e.live_index, e.event_id, e.thread, e.usual, e.other_users,"
            " e.other_levels FROM push_events e JOIN push_rooms r USING (room_id)"
            " WHERE r.is_pending AND e.live_index > r.summed_to ORDER BY e.room_id, e.live_index"
        )
        users = await self._database.fetch(
            "SELECT room_id, user_id, max(counted_to) FROM push_reads JOIN push_rooms r"
            " USING (room_id) WHERE r.is_pending AND counted_to > r.summed_to"
            " GROUP BY room_id, user_id"
        )
        events: dict[RoomId, list[EventLevels]] = {}
        for room_id, place, event_id, thread, usual, others, levels in rows:
            named = dict(zip(others, levels, strict=True))
            one = EventLevels(place, event_id, thread, usual, named)
            events.setdefault(room_id, []).append(one)
        counted: dict[RoomId, dict[UserId, int]] = {}
        for room_id, user_id, place in users:
            counted.setdefault(room_id, {})[user_id] = place
        return [PendingRow(room, found, counted.get(room, {})) for room, found in events.items()]

    async def changed_rooms(self, after: int) -> list[RoomId]:
        """Returns the rooms with events or receipts after a position."""
        rows = await self._database.fetch(
            "SELECT room_id FROM rooms JOIN room_heads h USING (room_row_id) WHERE h.position > $1"
            " UNION SELECT room_id FROM receipts WHERE position > $1",
            after,
        )
        return [RoomId(row[0]) for row in rows]

    async def write(self, writes: PushWrites) -> None:
        """Stores the changes of a stretch of the log."""
        if writes.is_plain:
            async with self._database.connection() as connection:
                await connection.execute(_PLAIN, *_plain_columns(writes), writes.position)
            return
        anew = [key for key, state in writes.states.items() if state.is_new]
        async with self._database.transaction() as connection:
            await _delete(connection, "push_reads", [*writes.gone, *anew])
            await connection.execute(_PLAIN, *_plain_columns(writes), writes.position)
            await _write_opened(connection, writes.opened)
            await _write_counts(connection, writes)
            for event_id in writes.redacted:
                await connection.execute(_REDACT, event_id)
                await connection.execute(
                    "DELETE FROM push_redactions WHERE event_id = $1", event_id
                )
            for one in writes.sums:
                await _write_sum(connection, one)


_REDACT = f"""
WITH gone AS (DELETE FROM push_events WHERE event_id = $1 RETURNING *)
UPDATE push_counts c SET notified = c.notified - 1,
    highlighted = c.highlighted - ({_LEVEL.format(e="g", user="c.user_id")} = 2)::int
FROM gone g
WHERE c.room_id = g.room_id AND c.thread = g.thread
    AND {_LEVEL.format(e="g", user="c.user_id")} > 0
    AND NOT EXISTS (SELECT FROM push_reads r WHERE r.room_id = g.room_id
        AND r.user_id = c.user_id AND r.thread IN ('', g.thread) AND r.read_to >= g.live_index)
    AND (EXISTS (SELECT FROM push_rooms p
            WHERE p.room_id = g.room_id AND p.summed_to >= g.live_index)
        OR EXISTS (SELECT FROM push_reads r WHERE r.room_id = g.room_id
            AND r.user_id = c.user_id AND r.counted_to >= g.live_index))
"""
"""Takes an event back from the counts that it is in: of those who have not read it."""


_PLAIN = """
WITH fast AS (
    SELECT set_config('synchronous_commit', 'off', true)
), e AS (
    INSERT INTO push_events
        (room_id, live_index, event_id, thread, usual, other_users, other_levels)
    SELECT u.room_id, u.live_index, u.event_id, u.thread, u.usual,
        u.other_users::text[], u.other_levels::smallint[]
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::text[],
            $7::text[])
        AS u (room_id, live_index, event_id, thread, usual, other_users, other_levels)
    ON CONFLICT DO NOTHING
), r AS (
    INSERT INTO push_reads (room_id, user_id, thread, read_to, counted_to)
    SELECT * FROM unnest($8::text[], $9::text[], $10::text[], $11::bigint[], $12::bigint[])
    ON CONFLICT (room_id, user_id, thread)
    DO UPDATE SET read_to = excluded.read_to, counted_to = excluded.counted_to
)
INSERT INTO push_position (position) SELECT $13::bigint FROM fast
ON CONFLICT (is_only) DO UPDATE SET position = excluded.position
"""
"""A stretch in which events notify and users read, in one round trip: most are of this kind."""


def _plain_columns(writes: PushWrites) -> list[list[Any]]:
    events = [
        (
            room_id,
            one.live_index,
            one.event_id,
            one.thread,
            one.usual,
            array_text(one.others),
            array_text(map(str, one.others.values())),
        )
        for room_id, one in writes.events
    ]
    reads = [
        (*key, thread, state.marks.places[thread], state.counted_to)
        for key, state in writes.states.items()
        for thread in state.moved
    ]
    return [
        *([row[i] for row in events] for i in range(7)),
        *([row[i] for row in reads] for i in range(5)),
    ]


async def _write_opened(connection: Connection, room_ids: Collection[RoomId]) -> None:
    if room_ids:
        await connection.execute(
            "INSERT INTO push_rooms (room_id, summed_to, is_pending)"
            " SELECT room_id, -1, true FROM unnest($1::text[]) AS u (room_id)"
            " ON CONFLICT (room_id) DO UPDATE SET is_pending = true",
            list(room_ids),
        )


async def _write_counts(connection: Connection, writes: PushWrites) -> None:
    await _delete(connection, "push_counts", [*writes.gone, *writes.states])
    await _add(connection, ((*key, state.counts) for key, state in writes.states.items()))


async def _delete(
    connection: Connection, table: str, keys: Collection[tuple[RoomId, UserId]]
) -> None:
    if keys:
        await connection.execute(
            f"DELETE FROM {table} t USING unnest($1::text[], $2::text[]) AS u (room_id, user_id)"
            " WHERE t.room_id = u.room_id AND t.user_id = u.user_id",
            [room_id for room_id, _ in keys],
            [user_id for _, user_id in keys],
        )


async def _write_sum(connection: Connection, one: RoomSum) -> None:
    """Adds a sum once: a repetition, after an unknown outcome, finds the room summed."""
    is_new = await connection.fetchval(
        "UPDATE push_rooms SET summed_to = $2, is_pending = false"
        " WHERE room_id = $1 AND summed_to < $2 RETURNING true",
        one.room_id,
        one.summed_to,
    )
    if is_new:
        await _add(connection, ((one.room_id, user_id, counts) for user_id, counts in one.added))


async def _add(
    connection: Connection, added: Iterable[tuple[RoomId, UserId, ThreadCounts]]
) -> None:
    """Adds to counts; there is one addition for each user, room and thread."""
    rows: list[tuple[Any, ...]] = [
        (room_id, user_id, thread, count.notified, count.highlighted)
        for room_id, user_id, counts in added
        for thread, count in counts.items()
    ]
    if rows:
        await connection.execute(
            "INSERT INTO push_counts AS c (room_id, user_id, thread, notified, highlighted)"
            " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])"
            " ON CONFLICT (room_id, user_id, thread) DO UPDATE"
            " SET notified = c.notified + excluded.notified,"
            " highlighted = c.highlighted + excluded.highlighted",
            *([row[i] for row in rows] for i in range(5)),
        )
