"""Appends events of local users to rooms.

Rules:
1. A room's events are staged in order, under its lock; no commit is awaited there. The next event
   builds on the staged head.
2. The auth check, the signature and the place are computed from memory; if an event is missing, it
   is loaded and the step is repeated.
3. The answer follows the commit; a refusal follows the commit of the events that it may depend on.
   An event staged on a failed one is staged again.
4. Whether a draft is redundant, or may not be sent for a reason outside the auth rules, is also
   decided under the lock, by the staged state: concurrent equal requests have the same results as
   consecutive ones.
5. In a room with a policy server an event is signed by that server before it is staged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, TypeVar

import msgspec

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName
from federation.events.room_versions import RoomVersion
from federation.graph.building import EventDraft
from federation.ports import PolicyServerChanged
from homeserver import limits
from homeserver.engine.entries import Committed, Entry, TransactionKey, Unit, Work
from homeserver.engine.local.policy_signer import EventSigner
from homeserver.engine.local.stager import BuiltEvent, Signer, Stager
from homeserver.engine.log.committer import Committer, OutcomeUnknown
from homeserver.engine.log.staging import Correction, ImportedMembers, RoomUnit, StagedEvent
from homeserver.engine.log.transactions import Sent, Transactions
from homeserver.engine.rooms.room import Superseded
from homeserver.engine.rooms.rooms import Room, Rooms, RoomView, StateRef, retry_superseded
from homeserver.engine.rooms.snapshots import StateMap
from homeserver.errors import not_found, unavailable
from homeserver.storage.database import Connection

__all__ = ["Sent", "Signer", "Writer"]

T = TypeVar("T")

RoomWork: TypeAlias = Callable[[RoomId, Connection], Awaitable[Sequence[Entry]]]

Check: TypeAlias = Callable[[StateMap], StateRef | None]
"""Checks the state that a draft would be built on, under the room's lock. Returns the state event
that makes the draft redundant; raises MatrixError if the draft must not be sent."""

Verify: TypeAlias = Callable[[Room], Awaitable[None]]
"""The same for a check that reads events, staged or stored; under the room's lock, too."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Drafts to send in a room, as one unit, and what belongs to them."""

    room_id: RoomId
    drafts: Sequence[EventDraft]
    built: Sequence[EventDraft | BuiltEvent] = ()  # in place of drafts: what was signed elsewhere
    transaction: tuple[TransactionKey, bytes] | None = None  # with the hash it is stored under
    unit: Unit | None = None
    check: Check | None = None
    verify: Verify | None = None
    is_merge: bool = False

    @property
    def to_stage(self) -> Sequence[EventDraft | BuiltEvent]:
        """Returns the events and drafts to stage."""
        return self.built or self.drafts


class Writer:
    """Builds events of local users and commits them."""

    def __init__(
        self,
        rooms: Rooms,
        committer: Committer,
        *,
        stager: Stager,
        event_signer: EventSigner,
        transactions: Transactions,
        server_name: ServerName,
    ) -> None:
        self._rooms = rooms
        self._committer = committer
        self.stager = stager
        self.event_signer = event_signer
        self._transactions = transactions
        self._server_name = server_name

    # For services

    async def send(
        self,
        room_id: RoomId,
        draft: EventDraft,
        *,
        transaction: TransactionKey | None = None,
        check: Check | None = None,
        verify: Verify | None = None,
    ) -> Sent:
        """Builds an event on top of the room, and commits it. A repeat under the same transaction
        gets the first one's result. A state event equal to the current one isn't sent again, nor is
        a draft that `check` finds redundant; `check` and `verify` may refuse it.

        Raises MatrixError: 404 for a room that is unknown here, 403 if the auth rules or the room's
        policy server refuse, 400 and 413 for an invalid event, 503 if it can't be stored now, or
        the policy server can't be asked.
        """
        if transaction is None:
            job = _Job(room_id, [draft], check=check, verify=verify)
            [sent] = await self._commit_drafts(job)
            return sent
        claim = await self._transactions.begin(transaction)
        if isinstance(claim, Sent):
            return claim
        try:
            held = (transaction, claim.digest)
            job = _Job(room_id, [draft], transaction=held, check=check, verify=verify)
            [sent] = await self._commit_drafts(job)
        except OutcomeUnknown as unknown:
            if unknown.event_ids:
                [event_id] = unknown.event_ids
                self._transactions.finish_once_known(transaction, claim, event_id, unknown.final)
            else:  # the outcome of the events behind a refusal isn't known: no event was built
                self._transactions.abandon(transaction, claim, unknown)
            raise
        except BaseException as error:
            self._transactions.abandon(transaction, claim, error)
            raise
        self._transactions.finish(transaction, claim, sent)
        return sent

    async def send_all(
        self,
        room_id: RoomId,
        drafts: Sequence[EventDraft],
        *,
        entries: Sequence[Entry] = (),
        work: Work | None = None,
    ) -> list[Sent]:
        """Sends several events as one unit, all or none, with the rows that `work` writes. If a
        policy server is used, none may depend on another."""
        unit = Unit(entries, work) if entries or work else None
        return await self._commit_drafts(_Job(room_id, drafts, unit=unit))

    async def create(
        self,
        version: RoomVersion,
        drafts: Sequence[EventDraft],
        *,
        work: RoomWork | None = None,
        room_id: RoomId | None = None,
    ) -> tuple[RoomId, list[Sent]]:
        """Creates a room: the first draft is its m.room.create. All in one unit, with the rows that
        `work`, called with the new room's ID, writes (an alias). Raises as `send` does."""
        assert drafts[0].type == event_types.CREATE, "a room begins with its create event"
        await self._committer.wait_for_space()
        await self._committer.numbers.ready(2 * len(drafts) + 3)
        room, first = self.stager.new_room(version, drafts[0], room_id)
        self._rooms.add(room)
        try:
            async with self._rooms.locked(room.room_id):
                staged = [first]
                for draft in drafts[1:]:
                    await self.event_signer.check_new_room(room, draft)
                    staged.append(await self.stager.stage_draft(room, draft, None))
                    await _let_others_run(len(staged))
                rows = partial(work, room.room_id) if work is not None else None
                done = self.enqueue(room, staged, unit=Unit((), rows), is_new=True)
            committed = await done
        except OutcomeUnknown as unknown:
            unknown.final.add_done_callback(partial(_drop_if_failed, self._rooms, room))
            raise
        except Superseded as error:
            self._rooms.drop(room.room_id)
            raise unavailable("the room could not be stored") from error
        except BaseException:
            if room.unsettled == 0:
                self._rooms.drop(room.room_id)
            raise
        return room.room_id, _sent(staged, committed)

    async def _commit_drafts(self, job: _Job) -> list[Sent]:
        with suppress(PolicyServerChanged):
            return await self._commit(job)
        async with self.event_signer.turn(job.room_id, job.drafts[0].sender):
            for _ in range(limits.POLICY_TRIES):
                made = await self.event_signer.make(await self.room(job.room_id), job.drafts)
                try:
                    return await self._commit(replace(job, built=made))
                except PolicyServerChanged:  # its change is committed before it counts
                    await self._committer.submit(Unit())
        raise unavailable("the room's policy server changes")

    async def _commit(self, job: _Job) -> list[Sent]:
        return await retry_superseded(partial(self._stage_and_commit, job))

    async def _stage_and_commit(self, job: _Job) -> list[Sent]:
        await self.room(job.room_id)
        await self._committer.wait_for_space()
        await self._committer.numbers.ready(2 * len(job.to_stage) + 1)
        async with self._rooms.locked(job.room_id) as room:
            generation, rests_on_staged = room.generation, room.staged is not room.view
            try:
                staged = await self._stage(room, job)
            except MatrixError as error:
                if not rests_on_staged:
                    raise
                done: Awaitable[Committed] = self._refused_after(room, generation, error)
            else:
                new = [one for one in staged if isinstance(one, StagedEvent)]
                if new or job.unit is not None:
                    done = self.enqueue(room, new, unit=job.unit)
                elif rests_on_staged:
                    done = self._holds_after(room, generation)
                else:
                    return [one for one in staged if isinstance(one, Sent)]
        committed = await done
        sent = iter(_sent(new, committed))
        return [one if isinstance(one, Sent) else next(sent) for one in staged]

    async def _stage(self, room: Room, job: _Job) -> list[StagedEvent | Sent]:
        staged: list[StagedEvent | Sent] = []
        for draft in job.to_stage:
            staged.append(await self._stage_one(room, draft, job))
            await _let_others_run(len(staged))
        return staged

    async def _stage_one(
        self,
        room: Room,
        draft: EventDraft | BuiltEvent,
        job: _Job,
    ) -> StagedEvent | Sent:
        enough = job.check(room.staged.state) if job.check is not None else None
        if enough is not None:
            return Sent(enough.event_id, room.view.position)
        if job.verify is not None:
            await job.verify(room)
        content = draft.event if isinstance(draft, BuiltEvent) else draft
        same = await _same_state(self._rooms, room, room.staged, content)
        if same is not None:
            return same
        if isinstance(draft, BuiltEvent):
            return await self.event_signer.place(room, draft, job.transaction)
        await self.event_signer.require_no_signature(room, draft)
        if job.is_merge:
            return await self.stager.stage_merge(room, draft)
        return await self.stager.stage_draft(room, draft, job.transaction)

    async def _refused_after(self, room: Room, generation: int, refusal: MatrixError) -> Committed:
        """Raises a refusal that may depend on staged events once those are committed; if their
        commit fails, the room is asked again. Never returns."""
        await self._holds_after(room, generation)
        raise refusal

    async def _holds_after(self, room: Room, generation: int) -> Committed:
        """Returns once the staged events are committed; raises Superseded if their commit fails."""
        done = await self._committer.submit(Unit())  # commits after them in the queue
        if room.generation != generation:
            raise Superseded
        return done

    async def merge_heads(self, room_id: RoomId, draft: EventDraft) -> Sent:
        """Sends as `send` does, an event that names as many heads as it can, and isn't sent to
        other servers by itself."""
        [sent] = await self._commit_drafts(_Job(room_id, [draft], is_merge=True))
        return sent

    async def build_ahead(self, room_id: RoomId, draft: EventDraft) -> BuiltEvent:
        """Builds an event that isn't placed yet, so that another room can name it first; for
        `send_built`. Raises as `send` does."""
        room = await self.room(room_id)
        built = await self.stager.build(room, draft)
        signed, _ = await self.event_signer.sign(room, built.event)
        return msgspec.structs.replace(built, event=signed)

    async def send_built(self, room_id: RoomId, built: BuiltEvent) -> Sent:
        """Places and commits an event of `build_ahead`. Raises as `send` does, and
        PolicyServerChanged if the room's policy server, or the state that the event was built on,
        has changed."""
        [sent] = await self._commit(_Job(room_id, (), [built]))
        return sent

    async def find_same(self, room_id: RoomId, draft: EventDraft) -> EventId | None:
        """Returns the committed state event that is equal to a draft, if there is one; 404 for a
        room that is unknown here."""
        room = await self.room(room_id)
        same = await _same_state(self._rooms, room, room.view, draft)
        return None if same is None else same.event_id

    # For the engine

    async def room(self, room_id: RoomId) -> Room:
        """Returns the room; 404 for one that is unknown here."""
        room = self._rooms.hot(room_id) or await self._rooms.get(room_id)
        if room is None:
            raise not_found("this server doesn't know the room")
        return room

    def enqueue(
        self,
        room: Room,
        staged: Sequence[StagedEvent],
        *,
        unit: Unit | None = None,
        is_new: bool = False,
        imported: ImportedMembers | None = None,
        correction: Correction | None = None,
    ) -> asyncio.Future[Committed]:
        """Queues the events staged under the room's lock; the future is done after the commit.
        Raises Superseded if events that they may depend on have failed in the meantime."""
        room.lock.keep()
        done: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        ids, memory = [one.event.event_id for one in staged], self._rooms.memory
        room_unit = RoomUnit(
            room,
            room.generation,
            staged,
            unit or Unit(),
            done,
            is_new,
            correction=correction,
            imported=imported,
            committed=self._published,
            failed=partial(memory.stored, ids),
        )
        if room.watched is not None:
            room.watched += [one.event for one in staged]
        has_rows = correction is not None and bool(correction.rows)
        if has_rows or any(one.row.relates_to is not None for one in staged):
            room.has_relations = True
        _stage_missing(room, staged)
        # From the commit on the store has these events, and states that name them: before the
        # committer reports it, or even though it reports a failure (the server stops, and can't
        # find out any more). So memory must not say that they aren't stored.
        memory.stored(ids)
        self._committer.enqueue(room_unit)
        return done

    def _published(self, unit: RoomUnit) -> None:
        """Updates memory after the commit: staged events become ordinary ones."""
        _apply_correction(self._rooms, self._server_name, unit)
        for staged in unit.staged:
            unit.room.update_locals(staged.changes, self._server_name)
            _publish_missing(unit.room, staged)
            known = unit.room.unstage(staged.event.event_id)
            if known is not None:
                client = staged.entry.kept_client if staged.entry else None
                self._rooms.memory.remember(known, client if staged.event.is_state else None)
            for redacting in staged.redacting:
                target = redacting.target
                is_told = staged.entry is not None and target.event_id in (
                    staged.entry.redacts,
                    staged.entry.event.event_id,
                )
                self._rooms.apply_redaction(unit.room, target, redacting.redaction, is_told=is_told)
        self._rooms.grew(unit.room)


async def _same_state(
    rooms: Rooms, room: Room, view: RoomView, draft: EventDraft | Event
) -> Sent | None:
    """Returns the state event of a view, if the draft is equal to it."""
    if draft.state_key is None:
        return None
    ref = view.state.get((draft.type, draft.state_key))
    if ref is None:
        return None
    known = room.staged_events.get(ref.event_id)
    if known is None:
        known = (await rooms.events([ref.event_id]))[ref.event_id]
    event = known.event
    if event.sender != draft.sender or event.content != draft.content:
        return None
    return Sent(event.event_id, room.view.position)


def _stage_missing(room: Room, staged: Sequence[StagedEvent]) -> None:
    """Notes, until the commit, the missing parents of staged events."""
    for one in staged:
        if one.missing_parents:
            is_accepted = one.entry is not None
            room.staged_missing[one.event.event_id] = one.missing_parents, is_accepted


def _publish_missing(room: Room, staged: StagedEvent) -> None:
    """Updates the missing parents after the commit: new ones, and one that is stored now."""
    if staged.entry is not None:
        room.named.update(staged.missing_parents)
    room.awaited.update(staged.missing_parents)
    room.awaited.discard(staged.event.event_id)


def _apply_correction(rooms: Rooms, server_name: ServerName, unit: RoomUnit) -> None:
    """Drops from memory, after the commit, the events whose verdicts or states were wrong."""
    room, correction = unit.room, unit.correction
    if correction is None:
        return
    if correction.entry is not None:
        room.update_locals(correction.entry.changes, server_name)
    for row in correction.rows:
        event_id = EventId(row.event_id)
        room.was_corrected = True
        room.unstage(event_id)
        room.after.pop(event_id)
        rooms.memory.forget_event(event_id)
        if row.live_index is None:
            room.forget_timeline(event_id)
    for redacting in correction.redacting:
        rooms.apply_redaction(room, redacting.target, redacting.redaction)
    if correction.rows:
        room.corrections += 1
        room.forget_auth()


def _sent(staged: Sequence[StagedEvent], committed: Committed) -> list[Sent]:
    return [Sent(one.event.event_id, committed.first + i) for i, one in enumerate(staged)]


def _drop_if_failed(rooms: Rooms, room: Room, made: asyncio.Future[Committed]) -> None:
    if made.cancelled() or made.exception() is not None:
        rooms.drop(room.room_id)


async def _let_others_run(staged: int) -> None:
    """Yields to other tasks, so that many events of one request don't block the loop."""
    if staged % limits.STAGED_AT_ONCE == 0:
        await asyncio.sleep(0)
