"""The `state` (or `state_after`) of one room in a sync, and what a room without a name is called by.

Rules:
1. State is current state with what changed after the wanted moment put back. Where that can't be
   told from the timeline (a merge), state is read at the timeline's first event.
2. With lazy loading, of the members only those are sent whose events are in the timeline, who name
   the room, whose membership changed in a gap, and the reader's own when they join.
3. What one pass over a large state finds (its non-members, its heroes) is kept until the state
   changes.

Spec: client-server API, /sync, `state`, `summary`; "Lazy-loading room members".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from federation.events.ids import EventId, RoomId, StateKey, UserId
from homeserver import limits
from homeserver.engine.entries import StateChange
from homeserver.engine.reader import Reader
from homeserver.engine.rooms import Room, RoomView, Rooms
from homeserver.engine.snapshots import StateRef
from homeserver.rules import sync_diff
from homeserver.rules.filters import EventFilter
from homeserver.services.sync_timelines import Timeline

_ANY_LATER = 2**62
_MEMBER = "m.room.member"


class Moment(msgspec.Struct, frozen=True):
    """A room's state at a moment: a map, and the keys in which the moment differs from it."""

    state: Mapping[StateKey, StateRef]
    put_back: Mapping[StateKey, EventId | None]

    def get(self, key: StateKey) -> EventId | None:
        """The event under a key."""
        if key in self.put_back:
            return self.put_back[key]
        ref = self.state.get(key)
        return ref.event_id if ref is not None else None

    def overlaid(self, refs: Iterable[tuple[StateKey, EventId]]) -> dict[StateKey, EventId]:
        """`refs`, entries of the map, as of the moment; keys that had no event are left out."""
        whole = dict(refs)
        for key, event_id in self.put_back.items():
            if event_id is not None:
                whole[key] = event_id
            else:
                whole.pop(key, None)
        return whole


class _Index(msgspec.Struct, frozen=True):
    """What one pass over a state found."""

    state: Mapping[StateKey, StateRef]
    others: Sequence[tuple[StateKey, EventId]]
    heroes: Sequence[UserId]


class SyncState:
    """Works out state for syncs."""

    def __init__(self, rooms: Rooms, reader: Reader) -> None:
        self._rooms = rooms
        self._reader = reader
        self._indexes: OrderedDict[RoomId, _Index] = OrderedDict()

    async def at_start(self, room: Room, timeline: Timeline, upto: int) -> Moment:
        """The state before the timeline's first event; at `upto` when it is empty. State events
        that the filter left out of the timeline are in it."""
        view = room.view
        start = timeline.start
        if start is None:
            return await self.at(room, upto)
        changes = await self._reader.changes(room, after=start - 1, upto=_ANY_LATER)
        shown = timeline.ids
        changed = [one for one in changes if one[0] > upto or one[1].event_id in shown]
        return await self._put_back(room, view, changed, timeline)

    async def at(self, room: Room, upto: int) -> Moment:
        """The state as of a log position."""
        view = room.view
        changes = await self._reader.changes(room, after=upto, upto=_ANY_LATER)
        return await self._put_back(room, view, changes, None)

    async def _put_back(
        self,
        room: Room,
        view: RoomView,
        changes: Sequence[tuple[int, StateChange]],
        timeline: Timeline | None,
    ) -> Moment:
        if not changes:
            return Moment(view.state, {})
        replaced = await self._replaced(room, changes)
        former = sync_diff.put_back(changes, replaced)
        if not isinstance(former, sync_diff.Unknown):
            return Moment(view.state, former)
        state = None
        if timeline is not None and timeline.events:
            first = timeline.events[0].entry.event.event_id
            state = await self._rooms.state_before(room, first)
        return Moment(view.state if state is None else state, {})

    async def _replaced(
        self, room: Room, changes: Sequence[tuple[int, StateChange]]
    ) -> dict[EventId, EventId | None]:
        """Which event each of the changes' events replaced, by itself: from the room's newest
        events, else from its history."""
        ring = {placed.entry.event.event_id: placed for placed in room.ring}  # type: ignore[union-attr]
        replaced: dict[EventId, EventId | None] = {}
        for position, change in changes:
            if change.event_id is None:
                continue
            placed = ring.get(change.event_id)
            if placed is None:
                placed = await self._reader.place(room, change.event_id)
            if placed is not None and placed.position == position:
                replaced[change.event_id] = placed.entry.replaces  # type: ignore[union-attr]
        return replaced

    # Lists

    def whole(self, room: Room, moment: Moment) -> dict[StateKey, EventId]:
        """All state at a moment."""
        return moment.overlaid((key, ref.event_id) for key, ref in moment.state.items())

    def without_members(self, room: Room, moment: Moment) -> dict[StateKey, EventId]:
        """All state at a moment but the members."""
        whole = moment.overlaid(self._index(room, moment.state).others)
        return {key: event_id for key, event_id in whole.items() if key[0] != _MEMBER}

    def heroes(self, room: Room) -> Sequence[UserId]:
        """The first members of the room, the reader perhaps among them (`sync_diff.heroes`)."""
        return self._index(room, room.view.state).heroes

    def _index(self, room: Room, state: Mapping[StateKey, StateRef]) -> _Index:
        known = self._indexes.get(room.room_id)
        if known is not None and known.state is state:
            return known
        others = [(key, ref.event_id) for key, ref in state.items() if key[0] != _MEMBER]
        index = _Index(state, others, sync_diff.heroes(state))
        if state is room.view.state:
            self._indexes[room.room_id] = index
            if len(self._indexes) > limits.SYNC_STATE_INDEXES:
                self._indexes.popitem(last=False)
        return index

    async def filtered(
        self, chosen: Mapping[StateKey, EventId], wanted: EventFilter
    ) -> dict[StateKey, EventId]:
        """What a filter lets through; only one on senders or URLs needs the events."""
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
        """Has the room a name or a canonical alias that isn't empty?"""
        state = room.view.state
        named = {("m.room.name", ""): "name", ("m.room.canonical_alias", ""): "alias"}
        ids = {key: ref.event_id for key in named if (ref := state.get(key)) is not None}
        if not ids:
            return False
        known = await self._rooms.events(list(ids.values()))
        return any(
            event_id in known and bool(known[event_id].event.content.get(named[key]))
            for key, event_id in ids.items()
        )
