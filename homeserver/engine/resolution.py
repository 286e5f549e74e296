"""State resolution with its loads: calls the pure algorithm, loads what it misses, calls again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.graph.state_resolution import MissingEvent, resolve
from federation.ports import KnownEvent
from homeserver.engine.rooms import Before, Room, Rooms
from homeserver.engine.snapshots import StateMap, StateRef, difference
from homeserver.engine.staging import extended
from homeserver.engine.store import Store
from homeserver.engine.stored import key_of, ref_of
from homeserver.storage.snapshots import SnapshotRow


class Resolver:
    """Resolves the states of several branches of a room."""

    def __init__(self, store: Store, rooms: Rooms) -> None:
        self._store = store
        self._rooms = rooms

    async def resolve(
        self, room: Room, branches: Sequence[Before], take_nid: Callable[[], int]
    ) -> tuple[Before, tuple[SnapshotRow, ...]]:
        """The state that the branches resolve to, as one of them or as a new snapshot on top of
        the first. *Precondition:* one branch at least."""
        first = branches[0]
        if all(branch.state is first.state for branch in branches[1:]):
            return first, ()
        refs = await self._resolved(room, [branch.state for branch in branches])
        for branch in branches:
            if not difference(branch.state, refs):
                return branch, ()
        return extended(room, first, difference(first.state, refs), take_nid())

    async def _resolved(
        self, room: Room, states: Sequence[StateMap]
    ) -> Mapping[StateKey, StateRef]:
        sets = [{key: ref.event_id for key, ref in state.items()} for state in states]
        known: dict[EventId, KnownEvent] = dict(room.staged_events)
        while True:
            try:
                resolved = resolve(
                    room.version,
                    sets,
                    event=partial(_event, known),
                    is_rejected=partial(_is_rejected, known),
                )
                break
            except MissingEvent as missing:
                await self._load(missing.event_ids, known)
        return await self._refs(room, resolved, states)

    async def _load(self, event_ids: Collection[EventId], known: dict[EventId, KnownEvent]) -> None:
        """Loads events with their auth chains: the algorithm will ask for these next."""
        wanted = set(event_ids)
        while wanted:
            loaded = await self._rooms.events(wanted)
            assert len(loaded) == len(wanted), "what state names, and its auth events, is stored"
            known.update(loaded)
            wanted = {auth for one in loaded.values() for auth in one.event.auth_events}
            wanted -= known.keys()

    async def _refs(
        self,
        room: Room,
        resolved: Mapping[StateKey, EventId],
        states: Sequence[StateMap],
    ) -> Mapping[StateKey, StateRef]:
        refs: dict[StateKey, StateRef] = {}
        unknown: list[EventId] = []
        for key, event_id in resolved.items():
            for state in states:
                ref = state.get(key)
                if ref is not None and ref.event_id == event_id:
                    refs[key] = ref
                    break
            else:
                unknown.append(event_id)
        if unknown:
            # Resolution may bring back an event of the auth chain that no branch has any more.
            for row in await self._store.events.by_id(unknown):
                refs[key_of(row)] = ref_of(row)
        return refs


def _event(known: Mapping[EventId, KnownEvent], event_id: EventId) -> Event:
    if event_id not in known:
        raise MissingEvent(event_id)
    return known[event_id].event


def _is_rejected(known: Mapping[EventId, KnownEvent], event_id: EventId) -> bool:
    if event_id not in known:
        raise MissingEvent(event_id)
    return known[event_id].rejected
