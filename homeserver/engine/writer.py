"""The one door into a room's history, for events of our own users.

Rules:
1. A room's events are staged in order, under its turn; nobody waits for the disk there. The next
   event builds on the staged head.
2. The auth check, the signature and the place follow from memory; what is missing is loaded and
   the step is made again.
3. The answer follows the commit. What was staged on something that failed is staged once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from federation.events.event import Event, EventTooLarge, InvalidEvent
from federation.events.ids import EventId, RoomId, ServerName
from federation.events.redaction import redact_event
from federation.events.room_versions import RoomVersion
from federation.events.signing import SigningKey
from federation.graph.auth_rules import auth_event_keys, check_auth
from federation.graph.building import EventDraft, build_event
from federation.ports import Clock, KnownEvent
from homeserver import limits
from homeserver.engine.committer import Committer, Superseded
from homeserver.engine.entries import Committed, Entry, TransactionKey, Unit, Work
from homeserver.engine.resolution import Resolver
from homeserver.engine.rooms import Before, Head, NotLoaded, Room, Rooms
from homeserver.engine.staging import (
    Origin,
    Redacting,
    RoomUnit,
    Staged,
    after_state_event,
    empty_view,
    place_live,
    snapshot_row,
)
from homeserver.engine.transactions import Claim, Sent, Transactions
from homeserver.errors import bad_json, forbidden, not_found, too_large, unavailable
from homeserver.storage.database import Connection
from homeserver.storage.snapshots import SnapshotRow

__all__ = ["Sent", "Signer", "Writer"]

T = TypeVar("T")

RoomWork: TypeAlias = Callable[[RoomId, Connection], Awaitable[Sequence[Entry]]]


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs our events."""

    server_name: ServerName
    key: SigningKey


class Writer:
    """Makes events of our users and commits them."""

    def __init__(
        self,
        rooms: Rooms,
        committer: Committer,
        *,
        resolver: Resolver,
        transactions: Transactions,
        signer: Signer,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._rooms = rooms
        self._committer = committer
        self._resolver = resolver
        self._transactions = transactions
        self._signer = signer
        self._clock = clock
        self._random_bytes = random_bytes

    # For services

    async def send(
        self, room_id: RoomId, draft: EventDraft, *, transaction: TransactionKey | None = None
    ) -> Sent:
        """Makes an event on top of the room, and commits it. A repeat under the same transaction
        gets the first one's result. A state event that says what already holds makes no new one.

        Raises MatrixError: 404 for a room that is unknown here, 403 where the auth rules refuse,
        400 and 413 for what can't be an event, 503 when it can't be stored now.
        """
        if transaction is None:
            [sent] = await self._commit_drafts(room_id, [draft], None, None)
            return sent
        claim = await self._transactions.begin(transaction)
        if isinstance(claim, Sent):
            return claim
        try:
            [sent] = await self._commit_drafts(room_id, [draft], (transaction, claim), None)
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
        """Several events as one unit, all or none, with the rows that `work` writes."""
        unit = Unit(entries, work) if entries or work else None
        return await self._commit_drafts(room_id, drafts, None, unit)

    async def create(
        self,
        version: RoomVersion,
        drafts: Sequence[EventDraft],
        *,
        entries: Sequence[Entry] = (),
        work: RoomWork | None = None,
    ) -> tuple[RoomId, list[Sent]]:
        """Makes a room: the first draft is its m.room.create. All in one unit, with the rows that
        `work`, called with the new room's ID, writes (an alias). Raises as `send` does."""
        assert drafts[0].type == "m.room.create", "a room begins with its create event"
        await self._committer.wait_for_space()
        await self._committer.nids_ready(2 * len(drafts) + 3)
        room, first = self._new_room(version, drafts[0])
        self._rooms.add(room)
        try:
            async with room.turn:
                staged = [first]
                for draft in drafts[1:]:
                    staged.append(await self.stage_draft(room, draft, None))
                rows = partial(work, room.room_id) if work is not None else None
                done = self.enqueue(room, staged, unit=Unit(entries, rows), is_new=True)
            committed = await done
        except Superseded as error:
            self._rooms.drop(room.room_id)
            raise unavailable("the room could not be stored") from error
        except BaseException:
            if room.unsettled == 0:
                self._rooms.drop(room.room_id)
            raise
        return room.room_id, _sent(staged, committed)

    async def _commit_drafts(
        self,
        room_id: RoomId,
        drafts: Sequence[EventDraft],
        transaction: tuple[TransactionKey, Claim] | None,
        unit: Unit | None,
    ) -> list[Sent]:
        stored = (transaction[0], transaction[1].digest) if transaction else None
        for _ in range(2):
            room = await self.room(room_id)
            await self._committer.wait_for_space()
            if self._committer.nids_left < 2 * len(drafts) + 1:
                await self._committer.nids_ready(2 * len(drafts) + 1)
            try:
                return await self._stage_and_commit(room, drafts, stored, unit)
            except Superseded:
                continue
        raise unavailable("the room could not be written")

    async def _stage_and_commit(
        self,
        room: Room,
        drafts: Sequence[EventDraft],
        transaction: tuple[TransactionKey, bytes] | None,
        unit: Unit | None,
    ) -> list[Sent]:
        room.pins += 1
        try:
            async with room.turn:
                before = room.staged
                staged: list[Staged | Sent] = []
                try:
                    for draft in drafts:
                        same = await self._same_state(room, draft)
                        staged.append(same or await self.stage_draft(room, draft, transaction))
                except BaseException:
                    if room.staged is not before:
                        room.restore(before)
                    raise
                new = [one for one in staged if isinstance(one, Staged)]
                if not new and unit is None:
                    return [one for one in staged if isinstance(one, Sent)]
                done = self.enqueue(room, new, unit=unit)
            committed = await done
        finally:
            room.pins -= 1
        sent = iter(_sent(new, committed))
        return [one if isinstance(one, Sent) else next(sent) for one in staged]

    # For the engine

    async def room(self, room_id: RoomId) -> Room:
        """The room; 404 for one that is unknown here."""
        room = self._rooms.hot(room_id) or await self._rooms.get(room_id)
        if room is None:
            raise not_found("this server doesn't know the room")
        return room

    def enqueue(
        self,
        room: Room,
        staged: Sequence[Staged],
        *,
        unit: Unit | None = None,
        is_new: bool = False,
    ) -> asyncio.Future[Committed]:
        """Queues what was staged under the room's turn; the future is done after the commit."""
        done: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        room_unit = RoomUnit(room, room.generation, staged, unit or Unit(), done, is_new)
        room_unit.committed = lambda: self._published(room_unit)
        self._committer.enqueue(room_unit)
        return done

    def _published(self, unit: RoomUnit) -> None:
        """After the commit: what was staged is an event like any other."""
        for staged in unit.staged:
            unit.room.update_locals(staged.changes, self._signer.server_name)
            known = unit.room.staged_events.pop(staged.event.event_id, None)
            if known is not None:
                client = staged.entry.client if staged.entry else None
                self._rooms.remember(known, client if staged.event.is_state else None)
            if staged.redacting is not None:
                redacting = staged.redacting
                self._rooms.apply_redaction(unit.room, redacting.target, redacting.redaction)

    async def stage_draft(
        self,
        room: Room,
        draft: EventDraft,
        transaction: tuple[TransactionKey, bytes] | None,
    ) -> Staged:
        """Builds, checks and places one event; the caller holds the room's turn. Raises
        MatrixError."""
        before, snapshots = await self._before(room)
        named = room.staged.heads[-limits.HEADS_PER_EVENT :]
        event = await self.loading(lambda: self._build(room, draft, before, named))
        origin = Origin(to_federate=True, transaction=transaction)
        return await self.place(room, event, before, origin, snapshots=snapshots)

    async def _before(self, room: Room) -> tuple[Before, tuple[SnapshotRow, ...]]:
        """The state that a new event is made on: of the heads that it names."""
        view = room.staged
        if len(view.heads) <= limits.HEADS_PER_EVENT:
            return Before(view.state, view.chain), ()
        named = view.heads[-limits.HEADS_PER_EVENT :]
        branches = [Before(head.state, head.chain) for head in named]
        return await self._resolver.resolve(room, branches, self._committer.take_nid)

    async def loading(self, step: Callable[[], T]) -> T:
        """Makes a step, loading the state events that it misses."""
        for _ in range(limits.STAGING_LOADS):
            try:
                return step()
            except NotLoaded as missing:
                await self._rooms.events([missing.event_id])
        raise AssertionError("an auth check needs a bounded number of events")

    def _build(self, room: Room, draft: EventDraft, before: Before, heads: Sequence[Head]) -> Event:
        state = before.state
        keys = auth_event_keys(
            draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
            version=room.version,
        )
        event = self._signed(
            draft,
            version=room.version,
            room_id=room.room_id,
            prev_events=[head.event_id for head in heads],
            auth_events=[state[key].event_id for key in keys if key in state],
            depth=max(head.depth for head in heads) + 1,
        )
        failure = check_auth(event, self._rooms.auth_state(room, state))
        if failure is not None:
            raise forbidden(f"{failure.detail} ({failure.rule.name.lower()})")
        return event

    def _signed(
        self,
        draft: EventDraft,
        *,
        version: RoomVersion,
        room_id: RoomId | None,
        prev_events: Sequence[EventId],
        auth_events: Sequence[EventId],
        depth: int,
    ) -> Event:
        try:
            return build_event(
                draft,
                version=version,
                room_id=room_id,
                prev_events=prev_events,
                auth_events=auth_events,
                depth=depth,
                now_ms=self._clock.now_ms(),
                server_name=self._signer.server_name,
                key=self._signer.key,
            )
        except EventTooLarge as error:
            raise too_large(error.reason) from error
        except InvalidEvent as error:
            raise bad_json(error.reason) from error

    async def place(
        self,
        room: Room,
        event: Event,
        before: Before,
        origin: Origin,
        *,
        nid: int | None = None,
        snapshots: tuple[SnapshotRow, ...] = (),
        replaces_heads: bool = False,
    ) -> Staged:
        """Puts an allowed event at the room's newest place; the caller holds the turn."""
        if nid is None:
            nid = self._committer.take_nid()
        after = before
        if event.is_state:
            after, rows = after_state_event(event, nid, room, before)
            snapshots += rows
        view = room.staged
        others = (
            ()
            if replaces_heads
            else tuple(head for head in view.heads if head.event_id not in event.prev_events)
        )
        if others:
            branches = [after, *(Before(head.state, head.chain) for head in others)]
            room.staged_events[event.event_id] = KnownEvent(event)
            current, rows = await self._resolver.resolve(room, branches, self._committer.take_nid)
            snapshots += rows
        else:
            current = after
        staged = place_live(
            event,
            nid,
            room,
            before=before,
            after=after,
            current=current,
            origin=origin,
            snapshots=snapshots,
            replaces_heads=replaces_heads,
        )
        await self._prepare_redactions(room, staged)
        assert staged.view is not None, "a placed event changes the room"
        room.staged = staged.view
        room.staged_events[event.event_id] = KnownEvent(event)
        room.remember_after(event.event_id, after)
        return staged

    def _new_room(self, version: RoomVersion, draft: EventDraft) -> tuple[Room, Staged]:
        """A room with its create event staged."""
        room_id = None
        if not version.room_id_is_create_hash:
            opaque = self._random_bytes(16).hex()
            room_id = RoomId(f"!{opaque}:{self._signer.server_name}")
        event = self._signed(
            draft, version=version, room_id=room_id, prev_events=(), auth_events=(), depth=1
        )
        nid, first = self._committer.take_nid(), self._committer.take_nid()
        view = empty_view(first)
        room = Room(event.room_id, nid, version, view)
        failure = check_auth(event, self._rooms.auth_state(room, view.state))
        if failure is not None:
            raise bad_json(failure.detail)
        before = Before(view.state, view.chain)
        event_nid = self._committer.take_nid()
        after, rows = after_state_event(event, event_nid, room, before)
        staged = place_live(
            event,
            event_nid,
            room,
            before=before,
            after=after,
            current=after,
            origin=Origin(to_federate=True),
            snapshots=(snapshot_row(room, view.chain), *rows),
        )
        assert staged.view is not None, "a placed event changes the room"
        room.staged = staged.view
        room.staged_events[event.event_id] = KnownEvent(event)
        return room, staged

    async def _same_state(self, room: Room, draft: EventDraft) -> Sent | None:
        """The current state event, if the draft says just what it says."""
        if draft.state_key is None:
            return None
        ref = room.staged.state.get((draft.type, draft.state_key))
        if ref is None or ref.event_id in room.staged_events:
            return None
        event = (await self._rooms.events([ref.event_id]))[ref.event_id].event
        if event.sender != draft.sender or event.content != draft.content:
            return None
        return Sent(event.event_id, room.view.position)

    # Redactions (spec: room version 3, "Handling redactions")

    async def _prepare_redactions(self, room: Room, staged: Staged) -> None:
        """Applies the redaction that this event is, or that waited for it."""
        event = staged.event
        waiting = room.awaited_targets.get(event.event_id)
        if waiting is not None:
            redaction = (await self._rooms.events([waiting])).get(waiting)
            if redaction is not None:
                await self._redact(room, staged, event, redaction.event)
        if event.type != "m.room.redaction" or event.redacts is None:
            return
        target_id = event.redacts
        known = room.staged_events.get(target_id) or (await self._rooms.events([target_id])).get(
            target_id
        )
        if known is None:
            room.awaited_targets[target_id] = event.event_id
            staged.waits_for_target = target_id
        elif known.event.room_id == room.room_id:
            await self._redact(room, staged, known.event, event)

    async def _redact(self, room: Room, staged: Staged, target: Event, by: Event) -> None:
        state = self._rooms.auth_state(room, room.staged.state)
        levels = await self.loading(lambda: state.power_levels)
        same_server = target.sender.partition(":")[2] == by.sender.partition(":")[2]
        if same_server or levels.user(by.sender) >= levels.redact:
            staged.redacting = Redacting(redact_event(target), by.event_id)


def _sent(staged: Sequence[Staged], committed: Committed) -> list[Sent]:
    return [Sent(one.event.event_id, committed.first + i) for i, one in enumerate(staged)]
