"""Builds events of local users, and places events of all servers: staging, under a room's lock.

Rules:
1. The auth check, the signature and the place are computed from memory; if an event is missing, it
   is loaded and the step is repeated.
2. A placed event is staged on the room: the next one builds on it. No step waits for a commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import msgspec

from federation.errors import MatrixError
from federation.events.event import Event, EventTooLarge, InvalidEvent
from federation.events.ids import EventId, RoomId, ServerName, server_of
from federation.events.room_versions import RoomVersion
from federation.events.signing import SigningKey
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.auth.auth_rules import auth_event_keys, check_auth
from federation.graph.building import Edges, EventDraft, build_event
from federation.ports import Clock, StoredEvent
from homeserver import limits
from homeserver.engine.entries import Entry, TransactionKey, redacted_entry
from homeserver.engine.log.staging import (
    EventStates,
    Origin,
    Resolved,
    StagedEvent,
    after_state_event,
    append_to_timeline,
    empty_view,
    lets_heads_go,
    other_heads,
)
from homeserver.engine.rooms.redactions import Redactions, note_waiting
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.room import Branch, branches_of
from homeserver.engine.rooms.rooms import Head, Room, Rooms, RoomView
from homeserver.engine.rooms.snapshots import Chain, StateMap, StateSnapshot, snapshot_row
from homeserver.errors import bad_json, forbidden, invalid_param, too_large
from homeserver.metrics import ServerMetrics
from homeserver.storage.database import Connection
from homeserver.storage.rooms.snapshots import SnapshotRow

RoomWork: TypeAlias = Callable[[RoomId, Connection], Awaitable[Sequence[Entry]]]


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs our events."""

    server_name: ServerName
    key: SigningKey


class BuiltEvent(msgspec.Struct, frozen=True):
    """A signed event of ours without a place yet: the state before it, its part that isn't stored,
    the branches that it was resolved from, and how often the room had been corrected."""

    event: Event
    before: StateSnapshot
    snapshots: tuple[SnapshotRow, ...] = ()
    parents: Sequence[Branch] = ()
    corrections: int = 0


class Stager:
    """Builds, checks and places events."""

    def __init__(
        self,
        rooms: Rooms,
        resolver: StateResolver,
        redactions: Redactions,
        *,
        take_row_id: Callable[[], int],
        signer: Signer,
        clock: Clock,
        metrics: ServerMetrics,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._rooms = rooms
        self._resolver = resolver
        self.redactions = redactions
        self._take_row_id = take_row_id
        self._signer = signer
        self._clock = clock
        self._metrics = metrics
        self._random_bytes = random_bytes

    def time_of(self, draft: EventDraft) -> int:
        """Returns a draft's time of sending: milliseconds since 1970, now if it has none."""
        said = draft.origin_server_ts
        return self._clock.now_ms() if said is None else said

    async def stage_draft(
        self,
        room: Room,
        draft: EventDraft,
        transaction: tuple[TransactionKey, bytes] | None,
    ) -> StagedEvent:
        """Builds, checks and places one event; the caller holds the room's lock. Raises
        MatrixError."""
        made = await self._made(room, room.staged, draft)
        return await self.place_made(room, made, transaction)

    async def stage_merge(self, room: Room, draft: EventDraft) -> StagedEvent:
        """Stages as `stage_draft` does, for an event that merges heads: as many as one may name."""
        made = await self._made(room, room.staged, draft, heads_max=limits.HEADS_PER_MERGE)
        return await self._place_made(room, made, Origin(to_federate=False))

    async def build(self, room: Room, draft: EventDraft) -> BuiltEvent:
        """Builds and checks an event on the committed view, unplaced. Raises MatrixError."""
        return await self._made(room, room.view, draft)

    async def place_made(
        self, room: Room, made: BuiltEvent, transaction: tuple[TransactionKey, bytes] | None
    ) -> StagedEvent:
        """Places an event of ours; the caller holds the room's lock."""
        return await self._place_made(room, made, Origin(to_federate=True, transaction=transaction))

    async def _place_made(self, room: Room, made: BuiltEvent, origin: Origin) -> StagedEvent:
        return await self.place(
            room,
            made.event,
            made.before,
            origin,
            snapshots=made.snapshots,
            parents=made.parents,
        )

    async def _made(
        self,
        room: Room,
        view: RoomView,
        draft: EventDraft,
        *,
        heads_max: int = limits.HEADS_PER_EVENT,
    ) -> BuiltEvent:
        corrections = room.corrections
        named = view.heads[-heads_max:]
        before, snapshots, parents = await self._before(room, view, named)
        event = await self._rooms.loading(lambda: self._build(room, draft, before, named))
        return BuiltEvent(event, before, snapshots, parents, corrections)

    async def _before(
        self, room: Room, view: RoomView, named: Sequence[Head]
    ) -> tuple[StateSnapshot, tuple[SnapshotRow, ...], Sequence[Branch]]:
        """Returns the state that a new event is built on: of the heads that it names, which are the
        branches returned beside it."""
        current = StateSnapshot(view.state, view.chain)
        if len(view.heads) == len(named):
            return current, (), ()
        parents = branches_of(named)
        states = [state for _, state in parents]
        before, snapshots = await self._resolver.resolve(
            room, states, self._take_row_id, near=current
        )
        return before, snapshots, parents

    def _build(
        self, room: Room, draft: EventDraft, before: StateSnapshot, heads: Sequence[Head]
    ) -> Event:
        state, cited = before.state, partial(self.cited, room)
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
            edges=Edges(
                [head.event_id for head in heads],
                [state[key].event_id for key in keys if key in state],
                max(head.depth for head in heads) + 1,
                cited,
            ),
            not_before_ms=_not_before_ms(draft, state, cited, self._signer.server_name),
        )
        failure = check_auth(
            event,
            room.auth_state(state, self._rooms.memory.cached_event),
            verified_servers={self._signer.server_name},  # no other server has signed it
        )
        if failure is not None:
            raise _refusal(failure)
        return event

    def cited(self, room: Room, event_id: EventId) -> Event:
        """Returns an event that a new one cites, for versions that cite by hash; raises
        NotLoaded.
        """
        staged = room.staged_events.get(event_id)
        return staged.event if staged else self._rooms.memory.cached_event(event_id)

    def _signed(
        self,
        draft: EventDraft,
        *,
        version: RoomVersion,
        room_id: RoomId | None,
        edges: Edges,
        not_before_ms: int = 0,
    ) -> Event:
        try:
            return build_event(
                draft,
                version=version,
                room_id=room_id,
                edges=edges,
                now_ms=max(self._clock.now_ms(), not_before_ms),
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
        before: StateSnapshot,
        origin: Origin,
        *,
        row_id: int | None = None,
        snapshots: tuple[SnapshotRow, ...] = (),
        after: StateSnapshot | None = None,
        parents: Sequence[Branch] = (),
    ) -> StagedEvent:
        """Puts an allowed event at the room's newest place, under its lock. An event that an
        accepted event names as its parent isn't a head, and doesn't change the current state.
        `parents`: the branches that `before` was resolved from. `after`: the state after it, if its
        snapshot exists."""
        if row_id is None:
            row_id = self._take_row_id()
        if after is None and not event.is_state:
            after = before
        elif after is None:
            after, rows = after_state_event(event, row_id, room, before)
            snapshots += rows
        others = () if origin.replaces_heads else other_heads(room.staged, event)
        is_named = bool(others) and room.is_named(event.event_id)
        branches, current, was = parents, after, room.staged
        if others:
            # If an accepted event names it, that event's branch includes its state.
            own = () if is_named else ((event.event_id, after),)
            branches = (*own, *branches_of(others))
            # Resolution looks the event up among the staged ones.
            room.stage(StoredEvent(event), row_id)
            near = StateSnapshot(was.state, was.chain)
            # The present state replaces the heads that are dropped.
            if lets_heads_go(was, event, others):
                branches = (*branches, (was.heads[-1].event_id, near))
            states = [state for _, state in branches]
            current, rows = await self._resolver.resolve(room, states, self._take_row_id, near=near)
            snapshots += rows
        staged = append_to_timeline(
            event,
            row_id,
            room,
            states=EventStates(before, after, current),
            origin=origin,
            snapshots=snapshots,
            is_head=not is_named,
        )
        is_changed = staged.changes_other_state
        resolved = self.resolved(branches, was.chain, current.chain, is_changed=is_changed)
        if resolved is not None:
            staged = msgspec.structs.replace(staged, resolved=resolved)
        # `room.staged` is still the room before this event, by which redactions are decided.
        staged = await self._redact(room, staged, before.state)
        assert staged.view is not None, "a placed event changes the room"
        room.staged = staged.view
        room.stage(StoredEvent(event), row_id)
        room.remember_after(event.event_id, after)
        return staged

    def resolved(
        self, branches: Sequence[Branch], was: Chain, now: Chain, *, is_changed: bool
    ) -> Resolved | None:
        """Returns the record of the resolution behind the current state, if there was one that
        changed it other than by a new event itself."""
        distinct = {state.chain[-1].row_id for _, state in branches}
        if len(distinct) < 2:
            return None
        self._metrics.state_resolutions.inc("yes" if is_changed else "no")
        if not is_changed:
            return None
        ends = tuple((event_id, state.chain[-1].row_id) for event_id, state in branches)
        return Resolved(self._clock.now_ms(), was[-1].row_id, now[-1].row_id, ends)

    def make_room_id(self) -> RoomId:
        """Returns an ID for a room of a version in which the server chooses it."""
        return RoomId(f"!{self._random_bytes(16).hex()}:{self._signer.server_name}")

    def new_room(
        self, version: RoomVersion, draft: EventDraft, room_id: RoomId | None = None
    ) -> tuple[Room, StagedEvent]:
        """Returns a room with its create event staged; `room_id` of `make_room_id`, if one was
        made.
        """
        if not version.room_id_is_create_hash:
            room_id = room_id or self.make_room_id()
        event = self._signed(
            draft,
            version=version,
            room_id=room_id,
            edges=Edges((), (), 1),
        )
        row_id, first = self._take_row_id(), self._take_row_id()
        view = empty_view(first)
        room = Room(event.room_id, row_id, version, view)
        failure = check_auth(event, room.auth_state(view.state, self._rooms.memory.cached_event))
        if failure is not None:
            raise bad_json(failure.detail)
        before = StateSnapshot(view.state, view.chain)
        event_row_id = self._take_row_id()
        after, rows = after_state_event(event, event_row_id, room, before)
        staged = append_to_timeline(
            event,
            event_row_id,
            room,
            states=EventStates(before, after, current=after),
            origin=Origin(to_federate=True),
            snapshots=(snapshot_row(room.row_id, view.chain), *rows),
        )
        assert staged.view is not None, "a placed event changes the room"
        room.staged = staged.view
        room.stage(StoredEvent(event), event_row_id)
        return room, staged

    # Redactions

    async def _redact(self, room: Room, staged: StagedEvent, before: StateMap) -> StagedEvent:
        """Applies this event as a redaction, and the redactions that waited for it."""
        staged, event = await self.with_waiting(room, staged), staged.event
        outcome = await self.redactions.of(room, event, before, is_unverified=staged.row.unverified)
        if outcome.waits_for is not None:
            note_waiting(room, outcome.waits_for, event.event_id)
            staged = msgspec.structs.replace(staged, waits_for_target=outcome.waits_for)
        if not outcome.applied:
            return staged
        entry = staged.entry
        if entry is not None:
            target = outcome.applied[0].target.event_id
            entry = msgspec.structs.replace(entry, redacts=target)
        redacting = staged.redacting + outcome.applied
        return msgspec.structs.replace(staged, redacting=redacting, entry=entry)

    async def with_waiting(self, room: Room, staged: StagedEvent) -> StagedEvent:
        """Applies the redactions that waited for an event, of whatever verdict."""
        if not room.awaits_more and staged.event.event_id not in room.awaited_targets:
            return staged
        waiting = await self.redactions.waiting_for(room, staged.event)
        entry = staged.entry
        if waiting and entry is not None:
            entry = redacted_entry(entry, waiting[0].target, waiting[0].redaction)
        return msgspec.structs.replace(staged, redacting=staged.redacting + waiting, entry=entry)


def _not_before_ms(
    draft: EventDraft, state: StateMap, cited: Callable[[EventId], Event], server_name: ServerName
) -> int:
    """Returns the least time of a state event: after the one of ours that it replaces. Resolution
    uses these times if the two compete, and our clock may have been set back since."""
    ref = None if draft.state_key is None else state.get((draft.type, draft.state_key))
    replaced = None if ref is None else cited(ref.event_id)
    if replaced is None or server_of(replaced.sender) != server_name:
        return 0
    return replaced.origin_server_ts + 1


_NEVER_RIGHT = frozenset(
    {
        AuthRule.CREATE_HAS_PREV_EVENTS,
        AuthRule.POWER_LEVEL_WITHOUT_STATE_KEY,
        AuthRule.POWER_LEVEL_NOT_INTEGER,
        AuthRule.POWER_LEVEL_MAP_MALFORMED,
        AuthRule.POWER_LEVEL_USERS_MALFORMED,
        AuthRule.POWER_LEVEL_OF_CREATOR,
    }
)
"""Rules that an event breaks whoever sends it."""


def _refusal(failure: AuthFailure) -> MatrixError:
    """Returns the answer to an event that the rules refuse: 403 M_FORBIDDEN to a user who may not
    send it, 400 M_INVALID_PARAM where nobody could."""
    text = f"{failure.detail} ({failure.rule.name.lower()})"
    return invalid_param(text) if failure.rule in _NEVER_RIGHT else forbidden(text)
