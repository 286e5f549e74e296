"""Rechecks verdicts that depend on unverified state, once the gap behind them is closed.

Rules:
1. An event can be verified when all of its parents have a place here and are verified: then the
   state before it is resolved over the states after them, and checks 4 and 5 are repeated with
   that. One server's unverified state never replaces another's.
2. An unchanged event loses its mark, and its children are checked next. A changed one gets its
   correct states and verdict, and all of its descendants are marked and due. Soft failure belongs
   to the moment of receipt, and stays.
3. The work is bounded: a limited number of events at a time, under the room's lock, in one commit.
   Each step leaves the room consistent, with the remaining work in the tables; a crash loses none
   of it.

Spec: server-server API, "Checks performed on receipt of a PDU"; design, "Remote events".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import immutables
import msgspec

from federation.bounded_cache import BoundedCache
from federation.events.event import Event
from federation.events.ids import EventId, RoomId
from federation.graph.admission import Rejected, needed_auth_events
from federation.graph.resolution.chains import topological_order
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.entries import Unit
from homeserver.engine.local.writer import Writer
from homeserver.engine.log.committer import Committer
from homeserver.engine.log.staging import Correction, state_ref
from homeserver.engine.recheck.corrections import Corrections
from homeserver.engine.recheck.descendants import Descendants
from homeserver.engine.recheck.due_rooms import DueRooms
from homeserver.engine.recheck.recheck import Recheck
from homeserver.engine.recheck.verdict_checker import VerdictChecker, is_unsigned_join
from homeserver.engine.rooms.redactions import Redacting, target_of
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.room import Room, RoomGone, Superseded
from homeserver.engine.rooms.rooms import Rooms, held, retry_superseded
from homeserver.engine.rooms.snapshots import (
    StateSnapshot,
    difference,
    extend,
    extended,
    first_chain,
    snapshot_row,
)
from homeserver.engine.rooms.stored import known_event, refusal_of
from homeserver.engine.store import EngineStore
from homeserver.metrics import ServerMetrics
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.timeline.events import Refusal, RoomEventRow, StoredVerdict
from homeserver.storage.timeline.rechecks import DueRow


class _EdgesMissing(Exception):
    """The descendants of these events have to be known first."""

    def __init__(self, cited: Collection[EventId]) -> None:
        super().__init__(len(cited))
        self.cited = cited


@dataclass(slots=True)
class _Work:
    """The known facts of a room, kept from one step to the next."""

    room: Room
    descendants: Descendants
    after: BoundedCache[EventId, StateSnapshot] = field(
        default_factory=lambda: BoundedCache(2 * limits.RECHECKS_PER_STEP)
    )

    def remember(self, event_id: EventId, after: StateSnapshot) -> None:
        """Keeps the state after a checked event, for its children."""
        self.after.put(event_id, after)


@dataclass(slots=True)
class _Step:
    """A bounded part of the work."""

    rows: Mapping[EventId, RoomEventRow]
    rechecked: dict[EventId, Recheck] = field(default_factory=dict)
    changed: dict[EventId, StoredEvent] = field(default_factory=dict)
    deferred: list[int] = field(default_factory=list)


class Rechecks:
    """Performs due rechecks."""

    def __init__(
        self,
        store: EngineStore,
        rooms: Rooms,
        committer: Committer,
        *,
        writer: Writer,
        resolver: StateResolver,
        checker: VerdictChecker,
        corrections: Corrections,
        due_rooms: DueRooms,
        metrics: ServerMetrics,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._committer = committer
        self._writer = writer
        self._resolver = resolver
        self._checker = checker
        self._corrections = corrections
        self._due_rooms = due_rooms
        self._metrics = metrics

    async def run(self) -> None:
        """Processes what a former process left, then new work; runs under the supervisor."""
        self._due_rooms.add(RoomId(one) for one in await self._store.rechecks.rooms_with_work())
        while True:
            await self.drain(await self._due_rooms.next())

    async def drain(self, room_id: RoomId) -> None:
        """Performs the due rechecks of a room; returns when none is due. Raises MatrixError (503)
        and the store's errors; the rest is then taken up by the next `run`."""
        room = await self._rooms.get(room_id)
        if room is None:
            return
        work = _Work(room, Descendants(self._store, room))
        with held(room):
            try:
                while await self._advance(work):
                    pass
            finally:
                room.watched = None

    async def _advance(self, work: _Work) -> bool:
        """Performs one step; returns False if nothing is due."""
        try:
            return await retry_superseded(partial(self._locked_step, work))
        except _EdgesMissing as missing:
            await work.descendants.read(missing.cited)
        return True

    async def _locked_step(self, work: _Work) -> bool:
        try:
            async with self._rooms.locked(work.room.room_id):
                return await self._step(work)
        except RoomGone:
            return False
        except Superseded:
            work.after.clear()
            raise

    async def _step(self, work: _Work) -> bool:
        room = work.room
        if room.unsettled:
            await self._committer.submit(Unit())  # commits after all staged events
        due = await self._store.rechecks.due(room.row_id, limits.RECHECKS_PER_STEP)
        if not due:
            return False
        await self._committer.numbers.ready(5 * len(due) + limits.HEADS_KEPT)
        step = _Step(await self._load([row.event_id for row in due]))
        try:
            correction = await self._decide(work, step, due)
            staged, unplaced = await self._corrections.place(
                room, step.rechecked.values(), work.descendants
            )
            correction = msgspec.structs.replace(correction, rows=[*correction.rows, *unplaced])
            done = self._writer.enqueue(room, staged, correction=correction)
        except BaseException:
            for event_id in step.changed:
                room.staged_events.pop(event_id, None)
            raise
        await done
        self._count(step)
        return True

    async def _decide(self, work: _Work, step: _Step, due: Sequence[DueRow]) -> Correction:
        """Rechecks the due events, and computes the resulting changes."""
        await self._recheck_due(work, step, due)
        rechecked = list(step.rechecked.values())
        wrong = [one for one in rechecked if not one.is_same]
        cited = [one.event_id for one in wrong if one.is_verdict_changed and one.event.is_state]
        if wrong and not work.descendants.covers(cited):
            raise _EdgesMissing(cited)
        work.descendants.catch_up()
        correction = await self._corrections.make(work.room, rechecked, work.descendants)
        redacting = await self._redact(work.room, rechecked, step.changed)
        room_row_id = work.room.row_id
        correction.rechecks.not_due += [(room_row_id, row_id) for row_id in step.deferred]
        correction.rechecks.verified += [
            (room_row_id, one.row_id, one.event_id) for one in rechecked
        ]
        return msgspec.structs.replace(correction, redacting=redacting)

    async def _redact(
        self, room: Room, rechecked: Sequence[Recheck], changed: Mapping[EventId, StoredEvent]
    ) -> list[Redacting]:
        """Applies the redactions that waited until they were verified."""
        redacting: list[Redacting] = []
        for one in rechecked:
            target = target_of(one.event)
            if target is None or one.verdict != StoredVerdict.ACCEPTED:
                continue
            redactions = self._writer.stager.redactions
            if one.event_id in await redactions.waiting(room, target):
                outcome = await redactions.of(
                    room, one.event, one.before.state, is_unverified=False, unstored=changed
                )
                redacting += outcome.applied
        return redacting

    def _count(self, step: _Step) -> None:
        corrected = sum(not one.is_same for one in step.rechecked.values())
        if corrected:
            self._metrics.rechecks.inc("corrected", amount=corrected)
        if len(step.rechecked) > corrected:
            self._metrics.rechecks.inc("verified", amount=len(step.rechecked) - corrected)

    # Verdicts

    async def _load(self, event_ids: Sequence[EventId]) -> dict[EventId, RoomEventRow]:
        """Returns the rows of the events and of their parents."""
        rows = {row.event_id: row for row in await self._store.events.by_id(event_ids)}
        parents = {p for row in rows.values() for p in known_event(row).event.prev_events}
        more = await self._store.events.by_id(parents - rows.keys())
        return {**rows, **{row.event_id: row for row in more}}

    async def _recheck_due(self, work: _Work, step: _Step, due: Sequence[DueRow]) -> None:
        """Rechecks the due events that are ready, parents first; the others aren't due any more:
        they become due once a parent of theirs is stored and verified."""
        ids = [row.event_id for row in due if row.event_id in step.rows]
        events = {one: known_event(step.rows[one]).event for one in ids}
        await self._rooms.events({one for e in events.values() for one in needed_auth_events(e)})
        for event_id in topological_order(events, lambda one: events[one].prev_events):
            row, event = step.rows[event_id], events[event_id]
            if not row.outlier and row.unverified and _is_ready(step, event):
                recheck = await self._recheck_one(work, step, event, row)
                step.rechecked[event_id] = recheck
                if recheck.is_verdict_changed:
                    is_rejected = recheck.verdict == StoredVerdict.REJECTED
                    known = StoredEvent(event, rejected=is_rejected)
                    step.changed[event_id] = work.room.staged_events[event_id] = known
        rechecked = {one.row_id for one in step.rechecked.values()}
        step.deferred = [row.event_row_id for row in due if row.event_row_id not in rechecked]

    async def _recheck_one(
        self, work: _Work, step: _Step, event: Event, row: RoomEventRow
    ) -> Recheck:
        room = work.room
        before, snapshots = await self._before(work, step, event)
        is_state_same = await self._is_stored_state(room, before, row.state_before)
        verdict, refusal = await self._verdict(room, step, event, before, row)
        after: StateSnapshot | None = before
        if is_state_same and verdict == row.verdict:
            after, snapshots = self._unchanged_after(event, before, row), ()
        elif event.is_state and verdict != StoredVerdict.REJECTED:
            change = {event.key: state_ref(event, row.event_row_id)}
            take = self._committer.numbers.take
            after, added = extended(room.row_id, before, change, take())
            snapshots += added
        if after is None:
            work.after.pop(event.event_id)
        else:
            work.remember(event.event_id, after)
        return Recheck(event, row, before, verdict, refusal, is_state_same, after, snapshots)

    async def _before(
        self, work: _Work, step: _Step, event: Event
    ) -> tuple[StateSnapshot, tuple[SnapshotRow, ...]]:
        if not event.prev_events:
            chain = first_chain(self._committer.numbers.take(), {})
            return StateSnapshot(immutables.Map(), chain), (snapshot_row(work.room.row_id, chain),)
        branches = []
        for parent in event.prev_events:
            after = work.after.get(parent)
            if after is None:
                snapshot = step.rows[parent].state_after
                after = await self._state(work.room, snapshot)
                work.remember(parent, after)
            branches.append(after)
        return await self._resolver.resolve(work.room, branches, self._committer.numbers.take)

    async def _state(self, room: Room, snapshot: int) -> StateSnapshot:
        chain = await self._rooms.chain(room, snapshot)
        return StateSnapshot(self._rooms.state_of(room, chain), chain)

    async def _is_stored_state(self, room: Room, before: StateSnapshot, snapshot: int) -> bool:
        if before.chain[-1].row_id == snapshot:
            return True
        stored = await self._state(room, snapshot)
        return not difference(stored.state, before.state)

    def _unchanged_after(
        self, event: Event, before: StateSnapshot, row: RoomEventRow
    ) -> StateSnapshot | None:
        """Returns the stored state after an event, if it follows from the one before it without a
        query: a snapshot's place in its chain depends only on its parent."""
        if before.chain[-1].row_id != row.state_before:
            return None
        if row.state_after == row.state_before:
            return before
        ref = state_ref(event, row.event_row_id)
        chain = extend(before.chain, row.state_after, {event.key: ref}, before.state)
        return StateSnapshot(before.state.set(event.key, ref), chain)

    async def _verdict(
        self, room: Room, step: _Step, event: Event, before: StateSnapshot, row: RoomEventRow
    ) -> tuple[StoredVerdict, Refusal | None]:
        """Returns the verdict and its reason, in their stored form."""
        stored: tuple[StoredVerdict, Refusal | None] = (row.verdict, row.refusal)
        if is_unsigned_join(row.rule):
            return stored
        rechecked = await self._checker.check(room, event, before.state, unstored=step.changed)
        if rechecked is None:
            return stored
        if isinstance(rechecked, Rejected):
            is_emptied_invite = event.membership == "invite" and row.redacted_by is not None
            if is_emptied_invite or row.verdict == StoredVerdict.REJECTED:
                return stored  # the event that a third-party invite depends on may be redacted
            return StoredVerdict.REJECTED, refusal_of(rechecked.failure)
        if row.verdict == StoredVerdict.SOFT_FAILED:
            return stored
        return StoredVerdict.ACCEPTED, None


def _is_ready(step: _Step, event: Event) -> bool:
    """Returns whether all parents have a place, and are verified."""
    for parent in event.prev_events:
        row = step.rows.get(parent)
        if row is None or row.outlier:
            return False
        if row.unverified and parent not in step.rechecked:
            return False
    return True
