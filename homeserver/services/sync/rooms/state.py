"""The `state` (or `state_after`) of one room in a sync, and the heroes of a room without a name.

Rules:
1. State is current state without the changes of the timeline and of events committed since the
   answer's position: each state event says which one it replaced, so no old state is read.
2. With lazy loading, the only member events sent are those of senders in the timeline, of heroes,
   of users whose membership changed in a gap, and the reader's own when they join.
3. State changes that the reader couldn't see are sent all the same: `state` and then `timeline`,
   applied by the client, lead to the room's state.
4. The results of one pass over a large state (its non-members, its heroes) are kept until the state
   changes.

Spec: client-server API, /sync, `state`, `summary`; "Lazy-loading room members".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from federation.bounded_cache import BoundedCache
from federation.events import event_types
from federation.events.ids import EventId, RoomId, StateKey, UserId
from homeserver import limits
from homeserver.engine.entries import StateChange
from homeserver.engine.rooms.reader import event_entry
from homeserver.engine.rooms.rooms import Room, Rooms, RoomView
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.rules.sync import sync_diff
from homeserver.rules.sync.filters import EventFilter
from homeserver.services.sync.plans import SyncScope
from homeserver.services.sync.rooms.timelines import SyncTimeline

NAMING_KEYS: Mapping[StateKey, str] = {
    event_types.NAME_KEY: "name",
    event_types.CANONICAL_ALIAS_KEY: "alias",
}
"""State that names a room, with the field of its content that has the name."""


class StateMoment(msgspec.Struct, frozen=True):
    """A room's state at a moment: a map, and the keys in which the moment differs from it."""

    state: Mapping[StateKey, StateRef]
    put_back: Mapping[StateKey, EventId | None]

    def get(self, key: StateKey) -> EventId | None:
        """Returns the event under a key."""
        if key in self.put_back:
            return self.put_back[key]
        ref = self.state.get(key)
        return ref.event_id if ref is not None else None

    def overlaid(self, refs: Iterable[tuple[StateKey, EventId]]) -> dict[StateKey, EventId]:
        """Returns `refs`, entries of the map, as of the moment; keys that had no event are left
        out.
        """
        whole = dict(refs)
        for key, event_id in self.put_back.items():
            if event_id is not None:
                whole[key] = event_id
            else:
                whole.pop(key, None)
        return whole


class _Index(msgspec.Struct, frozen=True):
    """The results of one pass over a state."""

    state: Mapping[StateKey, StateRef]
    others: Sequence[tuple[StateKey, EventId]]
    heroes: Sequence[UserId]


class SyncState:
    """Computes state for syncs."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._indexes: BoundedCache[RoomId, _Index] = BoundedCache(limits.SYNC_STATE_INDEXES)

    def at(self, room: Room, up_to: int) -> StateMoment:
        """Returns the state as of a recent log position: later changes are undone."""
        view = room.view
        former: dict[StateKey, EventId | None] = {}
        _put_back_later(room, view, up_to, former)
        return StateMoment(view.state, former)

    # Lists

    def delta(
        self, scope: SyncScope, timeline: SyncTimeline, changes: Sequence[tuple[int, StateChange]]
    ) -> dict[StateKey, EventId]:
        """Returns the `state` (or `state_after`) of an incremental sync; `changes` are those that
        it includes.
        """
        if scope.use_state_after:
            return sync_diff.last(changes)
        start = scope.up_to + 1 if timeline.start is None else timeline.start
        return sync_diff.state_delta(changes, start=start, timeline=timeline.ids)

    def whole(self, room: Room, moment: StateMoment) -> dict[StateKey, EventId]:
        """Returns all state at a moment."""
        return moment.overlaid((key, ref.event_id) for key, ref in moment.state.items())

    def without_members(self, room: Room, moment: StateMoment) -> dict[StateKey, EventId]:
        """Returns all state at a moment except the members."""
        whole = moment.overlaid(self._index(room, moment.state).others)
        return {key: event_id for key, event_id in whole.items() if key[0] != event_types.MEMBER}

    def heroes(self, room: Room) -> Sequence[UserId]:
        """Returns the first members of the room, possibly including the reader
        (`sync_diff.heroes`).
        """
        return self._index(room, room.view.state).heroes

    def _index(self, room: Room, state: Mapping[StateKey, StateRef]) -> _Index:
        known = self._indexes.get(room.room_id)
        if known is not None and known.state is state:
            return known
        others = [(key, ref.event_id) for key, ref in state.items() if key[0] != event_types.MEMBER]
        index = _Index(state, others, sync_diff.heroes(state))
        if state is room.view.state:
            self._indexes.put(room.room_id, index)
        return index

    async def filtered(
        self, chosen: Mapping[StateKey, EventId], wanted: EventFilter
    ) -> dict[StateKey, EventId]:
        """Returns the state that a filter lets through; only a filter on senders or URLs needs the
        events. State of the type of redactions is left out: it redacts nothing, and clients might
        apply it."""
        chosen = {
            key: event_id for key, event_id in chosen.items() if key[0] != event_types.REDACTION
        }
        if wanted.allows_all:
            return dict(chosen)
        chosen = {key: event_id for key, event_id in chosen.items() if wanted.allows_type(key[0])}
        if wanted.senders is None and not wanted.not_senders and wanted.contains_url is None:
            return dict(chosen)
        events = await self._rooms.events(list(chosen.values()))
        kept: dict[StateKey, EventId] = {}
        for key, event_id in chosen.items():
            known = events.get(event_id)
            if known is not None and wanted.allows(
                key[0], known.event.sender, "url" in known.event.content
            ):
                kept[key] = event_id
        return kept

    async def is_named(self, room: Room) -> bool:
        """Returns whether the room has a name or a canonical alias that isn't empty."""
        state = room.view.state
        ids = {key: ref.event_id for key in NAMING_KEYS if (ref := state.get(key)) is not None}
        if not ids:
            return False
        known = await self._rooms.events(list(ids.values()))
        return any(
            event_id in known and bool(known[event_id].event.content.get(NAMING_KEYS[key]))
            for key, event_id in ids.items()
        )


def before(end: StateMoment, timeline: SyncTimeline) -> StateMoment:
    """Returns the state before the timeline's first event, given that at the end: the timeline's
    changes are undone."""
    former = dict(end.put_back)
    put_back = set[StateKey]()
    for seen in timeline.events:
        event = seen.entry.event
        if event.state_key is not None and event.key not in put_back:
            put_back.add(event.key)
            former[event.key] = seen.entry.replaces
    return StateMoment(end.state, former)


def settled(timeline: SyncTimeline, final: Callable[[StateKey], EventId | None]) -> SyncTimeline:
    """Returns the timeline without events that would leave a client with other state than the
    room's.

    A client applies a timeline's state events. Where the last one of a key isn't what the room has
    at the end (`final`), since its successor is hidden from the reader, was filtered out, or stands
    on another branch that won, `state` tells what holds, and the timeline has no event of the key.
    """
    last = {
        seen.entry.event.key: seen.entry.event.event_id
        for seen in timeline.events
        if seen.entry.event.state_key is not None
    }
    wrong = {key for key, event_id in last.items() if final(key) != event_id}
    return timeline.without(wrong) if wrong else timeline


def _put_back_later(
    room: Room, view: RoomView, up_to: int, former: dict[StateKey, EventId | None]
) -> None:
    """Adds the former values of keys that events after `up_to` changed."""
    if view.position <= up_to:
        return
    later = []
    for placed in reversed(room.ring):
        if placed.position <= up_to:
            break
        later.append(event_entry(placed))
    for entry in reversed(later):
        if entry.event.state_key is not None:
            former.setdefault(entry.event.key, entry.replaces)
