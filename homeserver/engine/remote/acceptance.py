"""Accepts single events of other servers: the last check, the place, the commit.

Rules:
1. All network requests are complete by then. The last check is made here against the current heads
   (`settle`), under the room's lock; then the event is staged like a local one.
2. A rejected or soft-failed event is stored with its verdict; it isn't a head, and clients don't
   see it.
3. An event that the room's policy server should have been asked about, and wasn't, isn't stored at
   all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, StateKey
from federation.graph.admission import Accepted, Rejected, SoftFailed, settle
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.policy_servers import NotRecommended, PolicyServer
from federation.ports import PolicyServerChanged, StoredEvent
from homeserver.engine.entries import Unit
from homeserver.engine.local.writer import Writer
from homeserver.engine.log.committer import Committer, OutcomeUnknown
from homeserver.engine.log.staging import Origin, StagedEvent, store_as_outlier
from homeserver.engine.recheck.due_rooms import DueRooms
from homeserver.engine.recheck.verdict_checker import VerdictChecker, is_unsigned_join
from homeserver.engine.remote.imports import Imports
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.room import Branch, Room
from homeserver.engine.rooms.rooms import Rooms, retry_superseded
from homeserver.engine.rooms.snapshots import StateSnapshot
from homeserver.engine.rooms.stored import refusal_of, stored_failure
from homeserver.engine.store import EngineStore
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.timeline.events import StoredVerdict

Verdict = Accepted | SoftFailed | Rejected


@dataclass(frozen=True, slots=True)
class _HandIn:
    """An event that is handed in, and what is known of it."""

    event: Event
    verdict: Verdict
    state_before: Mapping[StateKey, EventId] | None
    to_federate: bool
    asked: PolicyServer | None


class Acceptance:
    """Hands events to rooms."""

    def __init__(
        self,
        store: EngineStore,
        rooms: Rooms,
        committer: Committer,
        *,
        writer: Writer,
        resolver: StateResolver,
        imports: Imports,
        checker: VerdictChecker,
        due_rooms: DueRooms,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._committer = committer
        self._writer = writer
        self._resolver = resolver
        self._imports = imports
        self._checker = checker
        self._due_rooms = due_rooms

    async def accept(
        self,
        event: Event,
        verdict: Verdict,
        state_before: Mapping[StateKey, EventId] | None,
        *,
        to_federate: bool,
        asked: PolicyServer | None = None,
    ) -> Verdict:
        """Hands in an event with the verdict of `admit`; `state_before` is given if it is
        unverified, `asked` the policy server that was asked about it. Returns the final verdict
        after the commit. Raises MatrixError (404, 503), PolicyServerChanged."""
        handed_in = _HandIn(event, verdict, state_before, to_federate, asked)
        return await retry_superseded(partial(self._stage_and_commit, handed_in))

    async def _stage_and_commit(self, handed_in: _HandIn) -> Verdict:
        event = handed_in.event
        room = await self._rooms.get(event.room_id)
        if room is None:
            raise MatrixError(404, "M_NOT_FOUND", "the room is not known here")
        if not event.prev_events:
            return _verdict_of_first(room, event)
        await self._committer.wait_for_space()
        await self._committer.numbers.ready(4)
        async with self._rooms.locked(event.room_id) as room:
            known = await self._known(room, event.event_id)
            if known is not None and not known.outlier:
                return _stored_verdict(known)
            staged, final = await self._stage(room, handed_in, known)
            done = self._writer.enqueue(room, [staged])
        try:
            await done
        except OutcomeUnknown as unknown:
            unknown.final.add_done_callback(partial(self._wake, room.room_id, staged))
            raise
        self._wake(room.room_id, staged)
        return final

    def _wake(self, room_id: RoomId, staged: StagedEvent, _: object = None) -> None:
        """Wakes the recheck worker if needed, after the commit, which may have come late."""
        if staged.is_awaited or (staged.row.unverified and not staged.missing_parents):
            self._due_rooms.add([room_id])

    async def _known(self, room: Room, event_id: EventId) -> StoredEvent | None:
        """Returns an event that is here already. A staged one counts only once it is committed: the
        first hand-in is awaited under the lock."""
        if event_id in room.staged_events:
            await self._committer.submit(Unit())  # commits after it in the queue
        return (await self._rooms.events([event_id])).get(event_id)  # None if its commit failed

    async def _stage(
        self, room: Room, handed_in: _HandIn, known: StoredEvent | None
    ) -> tuple[StagedEvent, Verdict]:
        """Stages an event that has no place here; `known` if it is stored without one."""
        verdict, state_before = handed_in.verdict, handed_in.state_before
        outlier = None if known is None else await self._outlier(known)
        row_id, event = outlier or (self._committer.numbers.take(), handed_in.event)
        before, snapshots, parents = await self._before(room, event, state_before)
        if room.was_corrected and state_before is None:
            verdict = await self._judge_again(room, event, verdict, before)
        if isinstance(verdict, Accepted):
            verdict = await self.settle(room, event)
            await self._check_asked(room, verdict, handed_in.asked)
        origin = Origin(
            to_federate=handed_in.to_federate,
            unverified=state_before is not None,
            missing_parents=await self._missing_parents(room, event),
            is_awaited=room.is_awaited(event.event_id),
            was_outlier=outlier is not None,
        )
        if isinstance(verdict, Accepted):
            staged = await self._writer.stager.place(
                room, event, before, origin, row_id=row_id, snapshots=snapshots, parents=parents
            )
            return staged, verdict
        is_soft = isinstance(verdict, SoftFailed)
        origin = replace(
            origin,
            to_federate=False,
            verdict=StoredVerdict.SOFT_FAILED if is_soft else StoredVerdict.REJECTED,
            refusal=refusal_of(verdict.failure),
        )
        staged, after = store_as_outlier(event, row_id, room, before, origin, snapshots=snapshots)
        staged = await self._writer.stager.with_waiting(room, staged)
        reason = str(verdict.failure)
        known = StoredEvent(event, rejected=not is_soft, soft_failed=is_soft, reason=reason)
        room.stage(known, row_id)
        room.remember_after(event.event_id, after)
        return staged, verdict

    async def _judge_again(
        self, room: Room, event: Event, verdict: Verdict, before: StateSnapshot
    ) -> Verdict:
        """Repeats checks 4 and 5 with the state that the event is placed on, in a room with
        rechecked verdicts: the caller may have decided before that."""
        if isinstance(verdict, Rejected) and is_unsigned_join(verdict.failure.rule.value):
            return verdict
        rechecked = await self._checker.check(room, event, before.state, unstored={})
        is_same = rechecked is None or isinstance(rechecked, Rejected) == isinstance(
            verdict, Rejected
        )
        return verdict if is_same or rechecked is None else rechecked

    async def settle(self, room: Room, event: Event) -> Accepted | SoftFailed:
        """Makes checks 6 and 7, under the room's lock."""
        policy = await self._writer.event_signer.policy_of(room, room.staged)
        current = room.auth_state(room.staged.state, self._rooms.memory.cached_event)
        return await self._rooms.loading(lambda: settle(event, current, policy=policy))

    async def _check_asked(
        self, room: Room, verdict: Accepted | SoftFailed, asked: PolicyServer | None
    ) -> None:
        """Raises PolicyServerChanged for an event without the recommendation of a policy server
        that wasn't asked."""
        if isinstance(verdict, Accepted) or not isinstance(verdict.failure, NotRecommended):
            return
        if await self._writer.event_signer.policy_of(room, room.staged) != asked:
            raise PolicyServerChanged

    async def _outlier(self, known: StoredEvent) -> tuple[int, Event] | None:
        """Returns an event that is stored without a place, to get one now, with its row number. The
        stored form counts: it may be whole while the received one is redacted, or the other way
        round."""
        event_id = known.event.event_id
        for row in await self._store.events.by_id([event_id]):
            self._rooms.memory.forget_event(event_id)
            row_id: int = row.event_row_id
            return row_id, known.event
        return None

    async def _missing_parents(self, room: Room, event: Event) -> tuple[EventId, ...]:
        """Returns the parents without a place here; staged ones have one."""
        in_memory = {*room.after, *room.staged_events}
        unknown = [one for one in event.prev_events if one not in in_memory]
        if not unknown:
            return ()
        known = await self._rooms.events(unknown)
        return tuple(one for one in unknown if one not in known or known[one].outlier)

    async def _before(
        self,
        room: Room,
        event: Event,
        state_before: Mapping[StateKey, EventId] | None,
    ) -> tuple[StateSnapshot, tuple[SnapshotRow, ...], Sequence[Branch]]:
        """Returns the state before an event, stored as a snapshot; and its parents with the states
        after them, from which it was resolved."""
        if state_before is not None:
            return (*await self._imports.given_state(room, state_before), ())
        branches = await self.states_after(room, event.prev_events)
        if branches is None:
            raise MatrixError(503, "M_UNKNOWN", "a parent of the event is missing")
        before, rows = await self._resolver.resolve(room, branches, self._committer.numbers.take)
        is_each = len(branches) == len(event.prev_events)  # else the heads, as one state
        return before, rows, tuple(zip(event.prev_events, branches, strict=True)) if is_each else ()

    async def states_after(
        self, room: Room, event_ids: Collection[EventId], *, staged: bool = True
    ) -> list[StateSnapshot] | None:
        """Returns the states after some events; None if one of them has no known place."""
        view = room.staged if staged else room.view
        if set(event_ids) == {head.event_id for head in view.heads}:
            return [StateSnapshot(view.state, view.chain)]
        heads = {head.event_id: StateSnapshot(head.state, head.chain) for head in view.heads}
        branches = []
        for event_id in event_ids:
            after = heads.get(event_id) or (room.after.get(event_id) if staged else None)
            if after is None:
                after = await self._stored_after(room, event_id)
            if after is None:
                return None
            branches.append(after)
        return branches

    async def _stored_after(self, room: Room, event_id: EventId) -> StateSnapshot | None:
        snapshot = await self._store.events.snapshot_after(room.row_id, event_id)
        if snapshot is None:
            return None
        chain = await self._rooms.chain(room, snapshot)
        return StateSnapshot(self._rooms.state_of(room, chain), chain)


def _stored_verdict(known: StoredEvent) -> Verdict:
    """Returns the verdict that an event is stored with."""
    if known.rejected:
        failure = stored_failure(known.reason)
        assert isinstance(failure, AuthFailure), "only check 7 is a policy server's"
        return Rejected(failure)
    if known.soft_failed:
        return SoftFailed(stored_failure(known.reason))
    return Accepted()


def _verdict_of_first(room: Room, event: Event) -> Verdict:
    """Returns the verdict of an event without parents, which can only be the room's create event. A
    second one would bring a state without history and members: the start of a state reset."""
    create = room.view.state.get(event_types.CREATE_KEY)
    if create is not None and create.event_id == event.event_id:
        return Accepted()
    return Rejected(AuthFailure(AuthRule.STATE_WITHOUT_CREATE, "the event names no prev_events"))
