"""One room in memory.

Rules:
1. A room has two views. `view` is committed; `staged` is the writer's, and no result that depends
   on it leaves the process before its commit. After a failed batch `staged` is `view` again and the
   generation is one higher.
2. Views are immutable: a new one for each event, sharing the unchanged parts.
3. Events staged under the lock are queued before its release, or taken back. They aren't queued if
   a batch that they may depend on has failed in the meantime.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import immutables
import msgspec

from federation.bounded_cache import BoundedCache
from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId, server_of
from federation.events.room_versions import RoomVersion
from federation.graph.auth.auth_rules import AuthState
from federation.graph.resolution.auth_chains import AuthChains
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateChange
from homeserver.engine.rooms.citations import CitationIndex
from homeserver.engine.rooms.snapshots import (
    Chain,
    StateMap,
    StateRef,
    StateSnapshot,
    membership_of,
)
from homeserver.errors import unavailable

_STATE_ENTRY_BYTES = 350
_ROOM_BYTES = 4_000
_AWAITED_BYTES = 400


class NotLoaded(LookupError):
    """A needed state event is not in memory: load it, then repeat the step."""

    def __init__(self, event_id: EventId) -> None:
        super().__init__(event_id)
        self.event_id = event_id


class Superseded(Exception):
    """The commit that this was staged on failed, or it can't be placed now: stage it again."""


class RoomGone(Superseded):
    """The room isn't known here: its creation failed, or there was none."""


class Head(msgspec.Struct, frozen=True):
    """A forward extremity with the state after it."""

    event_id: EventId
    row_id: int
    depth: int
    state: StateMap
    chain: Chain


Branch = tuple[EventId, StateSnapshot]
"""An event with the state after it."""


def branches_of(heads: Iterable[Head]) -> tuple[Branch, ...]:
    """Returns forward extremities with the states after them."""
    return tuple((head.event_id, StateSnapshot(head.state, head.chain)) for head in heads)


class RoomView(msgspec.Struct, frozen=True):
    """A room as of one moment."""

    state: StateMap
    chain: Chain
    heads: tuple[Head, ...]
    live_index: int
    joined: int
    invited: int
    servers: immutables.Map[ServerName, int]
    position: int = 0


class RoomLock:
    """The lock under which events of a room are staged; the wait for it is bounded.

    Staging waits only for loads of events that aren't in memory; if the database stalls, the
    waiters must not wait for one such load each.
    """

    def __init__(self, room: Room) -> None:
        self._lock = asyncio.Lock()
        self._room = room
        self._is_queued = False
        self._waiting = 0
        self.begin()

    def locked(self) -> bool:
        """Returns whether the lock is held."""
        return self._lock.locked()

    async def acquire(self) -> bool:
        """Takes the lock; returns whether other tasks ran in the meantime. Raises MatrixError (503)
        if it can't be taken in time."""
        # A lock that was just released is free, but those that waited for it come first.
        is_waiting = self._lock.locked() or self._waiting > 0
        if is_waiting:
            await self._wait()
        else:
            await self._lock.acquire()
        self._is_queued = False
        self.begin()
        return is_waiting

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(limits.COMMIT_ANSWER_S):
                await self._lock.acquire()
        except TimeoutError:
            raise unavailable("the room is busy") from None
        finally:
            self._waiting -= 1

    def release(self, error: BaseException | None) -> None:
        """Releases the lock; drops staged events that weren't queued. `error` ended the work under
        the lock; raises Superseded if a failed batch may be its cause."""
        is_lost = self.is_lost
        try:
            self._take_back()
        finally:
            self._lock.release()
        if is_lost and not self._is_queued and isinstance(error, AssertionError | LookupError):
            raise Superseded from error  # it may have read events that the failed batch discarded

    def begin(self) -> None:
        """Marks the start of a group of staged events."""
        self._generation = self._room.generation
        self.view = self._room.staged
        self.staged: set[EventId] = set()

    @property
    def is_lost(self) -> bool:
        """Returns whether a batch has failed that the events staged since `begin` may depend on."""
        return self._generation != self._room.generation

    def keep(self) -> None:
        """Notes that the staged events are queued for their commit. Raises Superseded if they
        depend on a failed batch.
        """
        if self.is_lost:
            raise Superseded
        self._is_queued = True
        self.begin()

    def _take_back(self) -> None:
        """Drops staged events that weren't kept."""
        room = self._room
        if self.is_lost:
            _drop_staged(room)  # all of it was staged under this lock, after the failure or before
        elif self.staged or room.staged is not self.view:
            for event_id in self.staged:
                room.unstage(event_id)
            room.restore(self.view)


class RoomGaps(msgspec.Struct, frozen=True):
    """What a room lacks, as it is stored."""

    named: Collection[EventId] = ()
    """Missing parents of accepted events: these aren't heads."""
    awaited: Collection[EventId] = ()
    """Missing parents of unverified events."""
    targets: Sequence[tuple[EventId, EventId]] = ()
    """Targets of redactions that wait for them, each with a redaction."""
    has_more_targets: bool = False
    """Whether there are others, only in the store."""


NO_GAPS = RoomGaps()


class Room:
    """A room in memory."""

    def __init__(
        self,
        room_id: RoomId,
        row_id: int,
        version: RoomVersion,
        view: RoomView,
        *,
        joined_local: Iterable[UserId] = (),
        gaps: RoomGaps = NO_GAPS,
        ring_start: int | None = None,
    ) -> None:
        """`ring_start`: the position after which all timeline events are remembered next; None:
        that of the view."""
        self.room_id = room_id
        self.row_id = row_id
        self.version = version
        self.view = view
        self.staged = view
        self.generation = 0
        self.holders = 0
        self.unsettled = 0
        self.joined_local = set(joined_local)
        self.ring: deque[Placed] = deque()
        self.ring_start = view.position if ring_start is None else ring_start
        self.changes_start = view.position  # older ring entries don't have changes of state
        self.awaited_targets: dict[EventId, list[EventId]] = {}  # targets of waiting redactions
        for target, redaction in gaps.targets:
            self.awaited_targets.setdefault(target, []).append(redaction)
        self.awaits_more = gaps.has_more_targets
        self.named = set(gaps.named)
        self.awaited = set(gaps.awaited)
        self.watched: list[Event] | None = None  # staged events, while a reader needs them
        self.was_corrected = False  # A verdict was rechecked: earlier decisions may be wrong.
        self.has_relations = False  # One of its events may relate to another one.
        self.corrections = 0  # events built before a recheck are rebuilt
        self.staged_events: dict[EventId, StoredEvent] = {}
        self.staged_refs: dict[EventId, StateRef] = {}  # the state events among them
        self.staged_missing: dict[EventId, tuple[Sequence[EventId], bool]] = {}
        """Events among them with missing parents: these, and whether the event is accepted."""
        self.citations = CitationIndex()
        self.auth_chains = AuthChains()
        self.after: BoundedCache[EventId, StateSnapshot] = BoundedCache(limits.ROOM_STATES_AFTER)
        self._ring_bytes = 0
        self._auth: AuthState | None = None
        self._auth_of: StateMap | None = None
        self.lock = RoomLock(self)

    @property
    def joined_servers(self) -> Mapping[ServerName, int]:
        """The number of joined users of each server."""
        return self.view.servers

    def is_joined(self, user_id: UserId) -> bool:
        """Returns whether a user, of any server, is joined."""
        member = self.view.state.get((event_types.MEMBER, user_id))
        return member is not None and member.membership == "join"

    @property
    def bytes(self) -> int:
        """Returns a rough size, for the memory budget."""
        state = _STATE_ENTRY_BYTES * len(self.view.state)
        index = self.citations.bytes + self.auth_chains.size_bytes
        index += _AWAITED_BYTES * len(self.awaited_targets)
        return _ROOM_BYTES + state + self._ring_bytes + index

    @property
    def is_in_use(self) -> bool:
        """Returns whether it must stay in memory: it has staged work, or a holder."""
        return bool(self.holders or self.unsettled or self.lock.locked())

    def remember(self, placed: Placed) -> None:
        """Adds a committed timeline event to the ring."""
        self.ring.append(placed)
        self._ring_bytes += ring_entry(placed).size
        while len(self.ring) > limits.ROOM_RING_EVENTS or (
            self._ring_bytes > limits.ROOM_RING_BYTES and len(self.ring) > 1
        ):
            oldest = self.ring.popleft()
            self.ring_start = oldest.position
            self._ring_bytes -= ring_entry(oldest).size

    def replace_in_ring(self, entry: EventEntry) -> None:
        """Renews a timeline event that a redaction changed."""
        for i, placed in enumerate(self.ring):
            if ring_entry(placed).event.event_id == entry.event.event_id:
                self.ring[i] = Placed(placed.position, entry)
                self._ring_bytes += entry.size - ring_entry(placed).size
                return

    def forget_timeline(self, event_id: EventId) -> None:
        """Drops a timeline event that was rejected after all."""
        for placed in self.ring:
            if ring_entry(placed).event.event_id == event_id:
                self.ring.remove(placed)
                self._ring_bytes -= ring_entry(placed).size
                return

    def publish(self, view: RoomView, position: int) -> None:
        """Makes a staged view the committed one; for the committer."""
        is_newest, is_ground = self.staged is view, self.lock.view is view
        self.view = msgspec.structs.replace(view, position=position)
        if is_ground:
            self.lock.view = self.view
        if is_newest:
            self.staged = self.view

    def update_locals(self, changes: Sequence[StateChange], own_server: str) -> None:
        """Keeps `joined_local` consistent with committed changes."""
        for change in changes:
            kind, user = change.key
            if kind == event_types.MEMBER and server_of(user) == own_server:
                if change.membership == "join":
                    self.joined_local.add(UserId(user))
                else:
                    self.joined_local.discard(UserId(user))

    def stage(self, known: StoredEvent, row_id: int) -> None:
        """Keeps an event that waits for its commit, under its row number."""
        event = known.event
        self.lock.staged.add(event.event_id)
        self.staged_events[event.event_id] = known
        if event.is_state:
            self.staged_refs[event.event_id] = StateRef(
                event.event_id, row_id, membership_of(event)
            )
            self.cite([event])

    def unstage(self, event_id: EventId) -> StoredEvent | None:
        """Returns the event as it was staged, after its commit."""
        self.staged_refs.pop(event_id, None)
        self.staged_missing.pop(event_id, None)
        return self.staged_events.pop(event_id, None)

    def is_named(self, event_id: EventId) -> bool:
        """Returns whether an event without a place here is the parent of an accepted one, stored or
        staged.
        """
        return event_id in self.named or any(
            is_accepted and event_id in missing
            for missing, is_accepted in self.staged_missing.values()
        )

    def is_awaited(self, event_id: EventId) -> bool:
        """Returns whether an event without a place here is the parent of an unverified one, stored
        or staged.
        """
        return event_id in self.awaited or any(
            event_id in missing for missing, _ in self.staged_missing.values()
        )

    def cite(self, events: Iterable[Event]) -> None:
        """Adds new events to the index of citations; called before they can be read from the store,
        so that no resolution uses one that the index lacks. An index past its bound starts anew."""
        for event in events:
            self.citations.add(event)
        if len(self.citations) > limits.ROOM_CITING_EVENTS:
            self.citations = CitationIndex(one.event for one in self.staged_events.values())

    def remember_after(self, event_id: EventId, after: StateSnapshot) -> None:
        """Keeps the state after a staged event, for events that name it as their parent."""
        self.after.put(event_id, after)

    def discard_staged(self) -> None:
        """Drops staged events after a failure; events built on them become Superseded."""
        self.generation += 1
        _drop_staged(self)

    def restore(self, view: RoomView) -> None:
        """Takes back staging that was not queued."""
        self.staged = view
        self.after.clear()
        self.auth_chains.clear()  # in room versions 1 and 2 another event may have the same ID
        self.forget_auth()

    def forget_auth(self) -> None:
        """Notes that an event that the auth rules read has changed."""
        self._auth = self._auth_of = None

    def auth_state(self, state: StateMap, load: Callable[[EventId], Event]) -> AuthState:
        """Returns a state in the form of the auth rules; cached while the state stays the same."""
        if self._auth is None or self._auth_of is not state:

            def lookup(key: StateKey) -> Event | None:
                ref = state.get(key)
                if ref is None:
                    return None
                staged = self.staged_events.get(ref.event_id)
                return staged.event if staged else load(ref.event_id)

            self._auth, self._auth_of = AuthState(self.version, lookup), state
        return self._auth


def _drop_staged(room: Room) -> None:
    """Takes back all staged events."""
    room.staged_events.clear()
    room.staged_refs.clear()
    room.staged_missing.clear()
    room.restore(room.view)


def ring_entry(placed: Placed) -> EventEntry:
    """Returns the entry of a timeline event."""
    assert isinstance(placed.entry, EventEntry), "a ring holds timeline events"
    return placed.entry


def membership_counts(
    state: Mapping[StateKey, StateRef],
) -> tuple[int, int, immutables.Map[ServerName, int]]:
    """Returns joined and invited users, and the joined ones of each server."""
    joined = invited = 0
    servers: dict[ServerName, int] = {}
    for (kind, user), ref in state.items():
        if kind != event_types.MEMBER:
            continue
        if ref.membership == "join":
            joined += 1
            server = server_of(user)
            servers[server] = servers.get(server, 0) + 1
        elif ref.membership == "invite":
            invited += 1
    return joined, invited, immutables.Map(servers)
