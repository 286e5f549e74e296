"""Places fetched history: the states of its events, and their verdicts.

Rules:
1. The state before an event is resolved over the states after its parents, if all of them are in
   the chunk or have a place here. At an open end it is unverified.
2. An event is unverified if the state before it is, or if one of its parents is.
3. An event that its state doesn't allow is rejected: it is stored, without a place in room order.
   At an open end the state is unverified, and a refusal by it would hide the gap below: there the
   event is placed, unverified, and rechecked once the gap is closed.
4. Undecided events are left out, and requested again.
5. Redactions are applied whether they or their targets come first (`engine.rooms.redactions`).

Spec: server-server API, "Backfilling and retrieving missing events".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import immutables

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.graph.admission import Accepted, Rejected
from federation.ports import StoredEvent
from homeserver.engine.log.staging import (
    Origin,
    after_state_event,
    event_row,
    redacted_rows,
    replaced_by,
)
from homeserver.engine.recheck.verdict_checker import VerdictChecker, refused_by_auth_events
from homeserver.engine.remote.places import Order
from homeserver.engine.remote.room_order import GivenPlaces, RoomOrder, Unplaced
from homeserver.engine.rooms.citations import cited_first
from homeserver.engine.rooms.redactions import Redacting, Redactions, target_of
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.room import Room
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.rooms.snapshots import StateSnapshot, first_chain, snapshot_row
from homeserver.engine.rooms.stored import known_event, refusal_of
from homeserver.engine.store import EngineStore
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.timeline.events import EventRow, RoomEventRow, StoredVerdict
from homeserver.storage.timeline.fetched_history import Filled
from homeserver.storage.timeline.rechecks import RecheckRows

States = Mapping[EventId, Mapping[StateKey, EventId]]
GivenState = Callable[
    [Room, Mapping[StateKey, EventId]], Awaitable[tuple[StateSnapshot, tuple[SnapshotRow, ...]]]
]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Fetched events, parents first; the unverified states before open ends; those that their auth
    events don't allow."""

    events: Sequence[Event]
    states: States
    rejected: Collection[EventId] = frozenset()


@dataclass(slots=True)
class _Work:
    """A chunk in progress."""

    room: Room
    chunk: Chunk
    stored: Mapping[EventId, RoomEventRow]
    row_ids: Mapping[EventId, int]
    after: dict[EventId, StateSnapshot] = field(default_factory=dict)
    known: dict[EventId, StoredEvent] = field(default_factory=dict)
    rows: list[EventRow] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    snapshots: list[SnapshotRow] = field(default_factory=list)
    unverified: set[EventId] = field(default_factory=set)
    lacking: dict[EventId, list[EventId]] = field(default_factory=dict)
    redacting: list[Redacting] = field(default_factory=list)
    waiting: list[tuple[EventId, EventId]] = field(default_factory=list)
    before_redactions: dict[EventId, StateSnapshot] = field(default_factory=dict)

    def is_placed(self, event_id: EventId) -> bool:
        """Returns whether it has a place in the graph, here or by this chunk."""
        if event_id in self.after:
            return True
        row = self.stored.get(event_id)
        return row is not None and not row.outlier

    def is_unverified(self, event_id: EventId) -> bool:
        """Returns whether an event that has a place is unverified."""
        if event_id in self.lacking:
            return event_id in self.unverified
        return self.stored[event_id].unverified


class Chunks:
    """Computes the places and states of fetched history."""

    def __init__(
        self,
        store: EngineStore,
        rooms: Rooms,
        *,
        resolver: StateResolver,
        redactions: Redactions,
        checker: VerdictChecker,
        take_row_id: Callable[[], int],
        given_state: GivenState,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._resolver = resolver
        self._redactions = redactions
        self._checker = checker
        self._take_row_id = take_row_id
        self._given_state = given_state
        self._order = RoomOrder(store)

    async def place(
        self, room: Room, chunk: Chunk, gaps: Mapping[EventId, Order]
    ) -> tuple[Filled, Sequence[Redacting]]:
        """Gives the chunk's events places; `gaps` are those of the events that name some of them as
        missing. Returns the events redacted by it or in it. *Precondition:* the caller holds the
        room's lock, and all staged events are committed. Raises Superseded."""
        ids = {event.event_id for event in chunk.events}
        ids |= {parent for event in chunk.events for parent in event.prev_events}
        rows = await self._store.events.by_id(ids)
        stored = {row.event_id: row for row in rows}
        # The stored form counts: it may be whole while the received one is redacted.
        events = [
            known_event(stored[one.event_id]).event if one.event_id in stored else one
            for one in chunk.events
        ]
        chunk = replace(chunk, events=events)
        work = _Work(room, chunk, stored, self._numbers(chunk, stored))
        for event in chunk.events:
            is_rejected = event.event_id in chunk.rejected
            work.known[event.event_id] = StoredEvent(event, rejected=is_rejected)
        try:
            for event in chunk.events:
                if not work.is_placed(event.event_id):
                    await self._place(work, event)
            await self._redact(work)
        finally:
            for event in work.events:
                room.unstage(event.event_id)
        given = await self._order.give_places(room, _unplaced(work), gaps)
        return _filled(work, given), work.redacting

    async def _redact(self, work: _Work) -> None:
        """Applies the chunk's redactions, and waiting ones to its events."""
        placed = {event.event_id: work.known[event.event_id] for event in work.events}
        for event in work.events:
            work.redacting += await self._redactions.waiting_for(work.room, event)
            before = work.before_redactions.get(event.event_id)
            if before is None:
                continue
            is_unverified = event.event_id in work.unverified
            outcome = await self._redactions.of(
                work.room, event, before.state, is_unverified=is_unverified, unstored=placed
            )
            work.redacting += outcome.applied
            if outcome.waits_for is not None:
                work.waiting.append((outcome.waits_for, event.event_id))

    def _numbers(self, chunk: Chunk, stored: Mapping[EventId, RoomEventRow]) -> dict[EventId, int]:
        """Returns the row numbers of the events; new ones are numbered in the order in which they
        are cited.
        """
        row_ids = {event_id: row.event_row_id for event_id, row in stored.items()}
        new = [event for event in chunk.events if event.event_id not in row_ids]
        row_ids.update((event.event_id, self._take_row_id()) for event in cited_first(new))
        return row_ids

    async def _place(self, work: _Work, event: Event) -> None:
        lacking = [one for one in event.prev_events if not work.is_placed(one)]
        if lacking and event.event_id in work.chunk.rejected:
            return  # it would hide the gap below it: it is placed once it comes with its parents
        before = await self._before(work, event)
        if before is None:
            return
        verdict = None
        if event.event_id not in work.chunk.rejected:
            verdict = await self._checker.check(work.room, event, before.state, unstored=work.known)
            if verdict is None:
                return
            if lacking and isinstance(verdict, Rejected):
                verdict = Accepted()  # unverified state alone isn't held against it
        row_id = work.row_ids[event.event_id]
        refusal = None if verdict is not None else refused_by_auth_events(event)
        if isinstance(verdict, Rejected):
            refusal = refusal_of(verdict.failure)
        is_rejected = refusal is not None
        is_unverified = bool(lacking) or any(map(work.is_unverified, event.prev_events))
        origin = Origin(
            to_federate=False,
            unverified=is_unverified,
            verdict=StoredVerdict.REJECTED if is_rejected else StoredVerdict.ACCEPTED,
            refusal=refusal,
        )
        after, replaces = before, None
        if event.is_state and not is_rejected:
            after, snapshots = after_state_event(event, row_id, work.room, before)
            work.snapshots += snapshots
            replaces = replaced_by(event, before)
        row = event_row(event, row_id, work.room, (before, after), origin, replaces=replaces)
        work.events.append(event)
        work.rows.append(row)
        work.lacking[event.event_id] = lacking
        work.after[event.event_id] = after
        known = StoredEvent(event, rejected=is_rejected, reason=row.reason)
        work.known[event.event_id] = known
        work.room.stage(known, row_id)
        if is_unverified:
            work.unverified.add(event.event_id)
        if target_of(event) is not None and not is_rejected:
            work.before_redactions[event.event_id] = before

    async def _before(self, work: _Work, event: Event) -> StateSnapshot | None:
        """Returns the state before an event; None if nothing is known of it."""
        if not event.prev_events:
            chain = first_chain(self._take_row_id(), {})
            work.snapshots.append(snapshot_row(work.room.row_id, chain))
            return StateSnapshot(immutables.Map(), chain)
        if all(map(work.is_placed, event.prev_events)):
            branches = [await self._after(work, parent) for parent in event.prev_events]
            before, snapshots = await self._resolver.resolve(work.room, branches, self._take_row_id)
        else:
            return await self._at_open_end(work, event)
        work.snapshots += snapshots
        return before

    async def _at_open_end(self, work: _Work, event: Event) -> StateSnapshot | None:
        """Returns the unverified state; without one for this event, the state by its known parents,
        else the unverified state of another open end: the event is marked, and rechecked."""
        given = work.chunk.states.get(event.event_id)
        known = [one for one in event.prev_events if work.is_placed(one)]
        if given is None and known:
            branches = [await self._after(work, parent) for parent in known]
            before, snapshots = await self._resolver.resolve(work.room, branches, self._take_row_id)
        elif given is not None or work.chunk.states:
            given = given or next(iter(work.chunk.states.values()))
            before, snapshots = await self._given_state(work.room, given)
        else:
            return None
        work.snapshots += snapshots
        return before

    async def _after(self, work: _Work, event_id: EventId) -> StateSnapshot:
        after = work.after.get(event_id)
        if after is None:
            chain = await self._rooms.chain(work.room, work.stored[event_id].state_after)
            after = work.after[event_id] = StateSnapshot(
                self._rooms.state_of(work.room, chain), chain
            )
        return after


def _unplaced(work: _Work) -> Unplaced:
    placing = {EventId(row.event_id) for row in work.rows if row.verdict == StoredVerdict.ACCEPTED}
    stored = {
        event_id: order for event_id, row in work.stored.items() if (order := row.order) is not None
    }
    return Unplaced(work.chunk.events, work.events, placing, stored)


def _filled(work: _Work, given: GivenPlaces) -> Filled:
    """Returns the rows; the events to verify; the remaining gaps."""
    room_row_id = work.room.row_id
    gaps: list[tuple[str, int, int]] = []
    rows: list[EventRow] = []
    rechecks = RecheckRows(placed=[(room_row_id, row.event_id) for row in work.rows])
    for event, row in zip(work.events, work.rows, strict=True):
        lacking = work.lacking[event.event_id]
        place = given.places.get(event.event_id)
        if place is not None:
            gaps += [(missing, *place) for missing in lacking]
        rows.append(row if place is None else row.at(place))
        if row.unverified:
            rechecks.opened += [
                (room_row_id, parent, row.event_row_id, parent in lacking)
                for parent in event.prev_events
            ]
    for one in given.moved:
        gaps += [(missing, *one.place) for missing in one.lacking]
    return Filled(
        rows,
        work.snapshots,
        gaps,
        rechecks,
        redacted_rows(room_row_id, work.redacting),
        [(room_row_id, target, redaction) for target, redaction in work.waiting],
        [(one.event_id, *one.place) for one in given.moved],
    )
