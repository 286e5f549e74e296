"""State resolution with its loads: calls the pure algorithm, loads missing events, calls it again.

Rules:
1. The time grows with the differences between the branches and their auth chains, not with the
   room: the first branch is the base, and only the differences of the others are passed on.
2. A room in use needs no query: events and citations are in memory. Others are loaded once,
   together with those that will be needed next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from federation.events.event import Event, load_event
from federation.events.ids import EventId, StateKey
from federation.graph.resolution.state_resolution import MissingEvent, resolve_deltas
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.rooms.citations import Scan
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.snapshots import (
    Delta,
    EventIds,
    StateMap,
    StateRef,
    StateSnapshot,
    change_between,
    extended,
)
from homeserver.engine.rooms.stored import key_of, ref_of
from homeserver.engine.store import EngineStore
from homeserver.storage.rooms.snapshots import SnapshotRow


class StateResolver:
    """Resolves the states of several branches of a room."""

    def __init__(self, store: EngineStore, rooms: Rooms) -> None:
        self._store = store
        self._rooms = rooms

    async def resolve(
        self,
        room: Room,
        branches: Sequence[StateSnapshot],
        take_row_id: Callable[[], int],
        *,
        near: StateSnapshot | None = None,
    ) -> tuple[StateSnapshot, tuple[SnapshotRow, ...]]:
        """Returns the state that the branches resolve to, as one of them or as a new snapshot on
        top of the state that it differs least from: one of the branches, or `near` (the room's
        former state). *Precondition:* one branch at least."""
        # Branches with the same snapshot are one to the algorithm, and few differ in a flood of
        # heads.
        by_snapshot: dict[int, StateSnapshot] = {}
        for branch in branches:
            by_snapshot.setdefault(branch.chain[-1].row_id, branch)
        distinct = list(by_snapshot.values())
        first = distinct[0]
        deltas = [change_between(first.chain, branch.chain) for branch in distinct]
        # Different snapshots may have the same state: it was changed and changed back.
        if not any(deltas):
            return first, ()
        change = await self._resolved(room, distinct, deltas)
        candidates = list(zip(distinct, deltas, strict=True))
        if near is not None:
            candidates.append((near, change_between(first.chain, near.chain)))
        nearest, keys = _nearest(candidates, change)
        if not keys:
            return nearest, ()
        rest = {key: change[key] if key in change else first.state.get(key) for key in keys}
        return extended(room.row_id, nearest, rest, take_row_id())

    async def _resolved(
        self, room: Room, branches: Sequence[StateSnapshot], deltas: Sequence[Delta]
    ) -> Delta:
        """Returns the changes that the resolution makes to the first branch."""
        states = [branch.state for branch in branches]
        known = _Known(room, self._rooms)
        asked = _Reached(room, states, known)
        while True:
            try:
                resolved = resolve_deltas(
                    room.version,
                    EventIds(states[0]),
                    [_ids(delta) for delta in deltas],
                    event=known.event,
                    is_rejected=known.is_rejected,
                    reached=asked,
                    chains=room.auth_chains,
                )
                break
            except MissingEvent as missing:
                await known.load(missing.event_ids)
            except CitationsMissing as missing_citations:
                await self._find_citations(room, missing_citations.event_ids, asked)
        self._rooms.grew(room)  # by citations and auth chains
        return await self._refs(room, resolved, states[0], deltas)

    async def _refs(
        self,
        room: Room,
        resolved: Mapping[StateKey, EventId | None],
        first: StateMap,
        deltas: Sequence[Delta],
    ) -> Delta:
        held = {ref.event_id: ref for delta in deltas for ref in delta.values() if ref is not None}
        refs: dict[StateKey, StateRef | None] = {}
        unknown: list[EventId] = []
        for key, event_id in resolved.items():
            if event_id is None:
                refs[key] = None
                continue
            found = held.get(event_id)
            if found is None and (of_first := first.get(key)) is not None:
                found = of_first if of_first.event_id == event_id else None
            # Resolution may bring back an event of the auth chain that no branch has any more.
            found = found or room.staged_refs.get(event_id)
            if found is None:
                unknown.append(event_id)
            else:
                refs[key] = found
        if unknown:
            rows = await self._store.events.refs_by_id(unknown)
            assert len(rows) == len(unknown), "what resolution brings back is staged or stored"
            refs.update((key_of(row), ref_of(row)) for row in rows)
        return refs

    # Citations

    async def _find_citations(
        self, room: Room, event_ids: Sequence[EventId], asked: _Reached
    ) -> None:
        """Ensures that `asked` can answer for these events."""
        rows = await self._store.events.refs_by_id(event_ids)
        assert len(rows) == len(event_ids), "what is staged is in the index, the rest is stored"
        first = min(row.event_row_id for row in rows)
        if not await self._extend(room, first):
            await self._scan(room, first, event_ids, asked)

    async def _extend(self, room: Room, first: int) -> bool:
        """Adds the room's state events from a row on to the index; returns False if they are more
        than it may hold."""
        index = room.citations
        if first <= index.too_long_from:
            return False  # an earlier attempt exceeded the bound
        older: list[Event] = []
        after = first - 1
        while page := await self._page(room, after):
            older += [event for _, event in page]
            after = page[-1][0]
            if len(older) + len(room.citations) > limits.ROOM_CITING_EVENTS:
                index.too_long_from = max(first, index.too_long_from)
                return False
        # Without an await in between, so that readers of the index see all of the range, or none.
        room.cite(older)
        return True

    async def _scan(
        self, room: Room, first: int, event_ids: Sequence[EventId], asked: _Reached
    ) -> None:
        staged = [known.event for known in room.staged_events.values()]
        scan = Scan(event_ids, asked.is_agreed)
        after = first - 1
        while not scan.is_over and (page := await self._page(room, after)):
            scan.look_at([event for _, event in page])
            after = page[-1][0]
        # Staged events cite stored ones, never the other way round.
        scan.look_at(staged)
        asked.answers.update((event_id, event_id in scan.reached) for event_id in event_ids)

    async def _page(self, room: Room, after: int) -> list[tuple[int, Event]]:
        """Returns the room's next state events by row number."""
        rows = await self._store.events.state_events(
            room.row_id, after=after, limit=limits.CITING_EVENTS_PAGE
        )
        return [
            (row.event_row_id, load_event(row.json, room.version, row.event_id)) for row in rows
        ]


class CitationsMissing(LookupError):
    """Memory can't tell whether these events are reached."""

    def __init__(self, event_ids: Sequence[EventId]) -> None:
        super().__init__(event_ids)
        self.event_ids = event_ids


class _Known:
    """The events that a resolution reads: staged ones, and those in memory or loaded."""

    def __init__(self, room: Room, rooms: Rooms) -> None:
        self._rooms = rooms
        self._chains = room.auth_chains
        self._staged = room.staged_events
        self._held: dict[EventId, StoredEvent] = {}  # the cache may evict them meanwhile

    def _find(self, event_id: EventId) -> StoredEvent:
        found = self._held.get(event_id)
        if found is None:
            found = self._staged.get(event_id) or self._rooms.memory.known(event_id)
            if found is None:
                raise MissingEvent(event_id)
            self._held[event_id] = found
        return found

    def event(self, event_id: EventId) -> Event:
        """Implements `LoadEvent`."""
        return self._find(event_id).event

    def is_rejected(self, event_id: EventId) -> bool:
        """Implements `IsRejected`."""
        return self._find(event_id).rejected

    async def load(self, event_ids: Collection[EventId]) -> None:
        """Loads events, and the part of their auth chains that the algorithm will need next."""
        wanted = set(event_ids)
        while wanted:
            loaded = await self._rooms.events(wanted)
            assert len(loaded) == len(wanted), "what state names, and its auth events, is stored"
            self._held.update(loaded)
            cited = {auth for one in loaded.values() for auth in one.event.auth_events}
            wanted = {
                event_id
                for event_id in cited
                if not (
                    event_id in self._held or event_id in self._chains or event_id in self._staged
                )
            }


class _Reached:
    """`chains.Reached` for one resolution. It knows the branches, so it doesn't use the events of
    the unconflicted state that it is given."""

    def __init__(self, room: Room, states: Sequence[StateMap], known: _Known) -> None:
        self._room = room
        self._states = states
        self._known = known
        self.answers: dict[EventId, bool] = {}

    def __call__(self, event_ids: Collection[EventId], starts: Collection[EventId]) -> set[EventId]:
        asked = [event_id for event_id in event_ids if event_id not in self.answers]
        indexed = [event_id for event_id in asked if event_id in self._room.citations]
        reached = self._room.citations.reached(indexed, self.is_agreed)
        self.answers.update((event_id, event_id in reached) for event_id in indexed)
        missing = []
        for event_id in asked:
            if event_id in self.answers:
                continue
            if self._own_key_reaches(event_id):
                self.answers[event_id] = True
            else:
                missing.append(event_id)
        if missing:
            raise CitationsMissing(missing)
        return {event_id for event_id in event_ids if self.answers[event_id]}

    def is_agreed(self, key: StateKey, event_id: EventId) -> bool:
        """Returns whether all branches have this event under this key."""
        return all(
            ref is not None and ref.event_id == event_id
            for ref in (state.get(key) for state in self._states)
        )

    def _own_key_reaches(self, event_id: EventId) -> bool:
        """Returns whether the event that replaced this one under its key cites it. That holds for
        most old memberships and power levels, so their index need not be loaded."""
        key = self._known.event(event_id).key
        own = self._states[0].get(key)
        if own is None or not self.is_agreed(key, own.event_id):
            return False
        # The chain of the first doesn't have this event if and only if that of both is longer.
        both = [{own.event_id}, {own.event_id, event_id}]
        return not self._room.auth_chains.differing(both, self._known.event)


def _nearest(
    candidates: Sequence[tuple[StateSnapshot, Delta]], change: Delta
) -> tuple[StateSnapshot, Collection[StateKey]]:
    """Returns the state that a result differs least from, and the keys in which they differ. Result
    and candidates are given as changes of the same state: so a new snapshot has few entries,
    however far apart the branches are."""

    def differing(delta: Delta) -> int:
        same = sum(key in change and change[key] == ref for key, ref in delta.items())
        beside = sum(key not in change for key in delta)
        return len(change) - same + beside

    nearest, delta = min(candidates, key=lambda one: differing(one[1]))
    keys = [key for key in change if key not in delta or delta[key] != change[key]]
    return nearest, [*keys, *(key for key in delta if key not in change)]


def _ids(delta: Delta) -> dict[StateKey, EventId | None]:
    return {key: None if ref is None else ref.event_id for key, ref in delta.items()}
