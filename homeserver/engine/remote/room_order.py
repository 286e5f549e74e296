"""Assigns places in room order to fetched history (`places`), between the existing ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.resolution.chains import topological_order
from homeserver import limits
from homeserver.engine.remote.displaced import Ancestors, AncestorWalk
from homeserver.engine.remote.places import Ends, Order, ends_of, places_between
from homeserver.engine.rooms.room import Room
from homeserver.engine.store import EngineStore

_BEGINNING: Order = (0, -(2**53))
_Between = tuple[Order | None, Order]


class Unplaced(msgspec.Struct, frozen=True):
    """A chunk whose events have no places yet, parents first: all of it, its stored events, those
    that get a place, and the former places of stored events."""

    events: Sequence[Event]
    stored: Sequence[Event]
    placing: Set[EventId]
    places: Mapping[EventId, Order]


class Moved(msgspec.Struct, frozen=True):
    """A stored event that gets another place, and its missing parents."""

    event_id: EventId
    place: Order
    lacking: Sequence[EventId]


class GivenPlaces(msgspec.Struct, frozen=True):
    """The places of a chunk's events, and the fetched history that moves."""

    places: Mapping[EventId, Order]
    moved: Sequence[Moved]


def _highs_of(
    events: Sequence[Event], places: Mapping[EventId, Order], gaps: Mapping[EventId, Order]
) -> dict[EventId, Order]:
    """Returns the lowest place of a descendant of each event, if one is known."""
    ends = ends_of(events, stored=places, children=gaps)
    return {event_id: end.high for event_id, end in ends.items() if end.high is not None}


def _joined(chunk: Unplaced, ancestors: Ancestors) -> Unplaced:
    """Returns the chunk with the events that have to move, as if they had no places yet."""
    moving = ancestors.displaced
    own = {event.event_id for event in chunk.events}
    events = {
        **{one: found.event for one, found in moving.items() if one not in own},
        **{event.event_id: event for event in chunk.events},
    }
    order = topological_order(events, lambda one: events[one].prev_events)
    placed_now = {event.event_id for event in chunk.stored} | moving.keys()
    return Unplaced(
        [events[one] for one in order],
        [events[one] for one in order if one in placed_now],
        chunk.placing | moving.keys(),
        {one: at for one, at in ancestors.places.items() if one not in moving},
    )


def _moved(event: Event, place: Order, known: Set[EventId]) -> Moved:
    lacking = [parent for parent in event.prev_events if parent not in known]
    return Moved(event.event_id, place, lacking)


class RoomOrder:
    """Finds the places; the caller holds the room's lock."""

    def __init__(self, store: EngineStore) -> None:
        self._store = store

    async def give_places(
        self, room: Room, chunk: Unplaced, gaps: Mapping[EventId, Order]
    ) -> GivenPlaces:
        """Returns the new places. `gaps`: the lowest places of stored events that name events of
        the chunk."""
        highs = _highs_of(chunk.events, chunk.places, gaps)
        walk = AncestorWalk(self._store, chunk.events, chunk.places)
        ancestors = await walk.walk(highs)
        displaced = ancestors.displaced
        if displaced:
            chunk = _joined(chunk, ancestors)
            below = {event_id: one.high for event_id, one in displaced.items()}
            gaps = {**gaps, **{one: min(high, gaps.get(one, high)) for one, high in below.items()}}
            highs = _highs_of(chunk.events, chunk.places, gaps)
        places = await self._place(room, chunk, gaps, highs)
        known = ancestors.known | {event.event_id for event in chunk.stored}
        moved = [
            _moved(one.event, places[event_id], known)
            for event_id, one in displaced.items()
            if event_id in places
        ]
        return GivenPlaces(places, moved)

    async def _place(
        self,
        room: Room,
        chunk: Unplaced,
        gaps: Mapping[EventId, Order],
        highs: Mapping[EventId, Order],
    ) -> dict[EventId, Order]:
        ends = ends_of(chunk.stored, stored=chunk.places, children=gaps)
        fallback = min(gaps.values())
        others = await self._other_gaps(room, chunk, gaps)
        placing = [event for event in chunk.stored if event.event_id in chunk.placing]
        # Events without missing ancestors come first: a missing event may lie between them and the
        # others.
        placing.sort(key=lambda one: not ends[one.event_id].is_closed)
        groups: dict[_Between, list[EventId]] = {}
        closed: list[Event] = []
        for event in placing:
            high = highs.get(event.event_id, fallback)
            if _is_clear(ends[event.event_id], high, others):
                below = await self._store.events.before(room.row_id, high, 1)
                between = (below[0].place if below else None), high
                groups.setdefault(between, []).append(event.event_id)
            else:
                closed.append(event)
        given = await self._spread(room, groups)
        return {**given, **await self._place_above(room, chunk, closed, highs, given)}

    async def _place_above(
        self,
        room: Room,
        chunk: Unplaced,
        events: Sequence[Event],
        highs: Mapping[EventId, Order],
        given: Mapping[EventId, Order],
    ) -> dict[EventId, Order]:
        """Returns places for events none of whose ancestors is missing: above the highest of these,
        which may have got its own place just now (`given`)."""
        if not events:
            return {}
        left = [event for event in chunk.stored if event.event_id not in given]
        lows = ends_of(left, stored={**chunk.places, **given}, children={})
        groups: dict[_Between, list[EventId]] = {}
        for event in events:
            low = lows[event.event_id].low
            rows = await self._store.events.behind(room.row_id, low or _BEGINNING, 1)
            above = [row.place for row in rows]
            above += [place for place in given.values() if low is None or place > low]
            if not above:  # the newest event is an ancestor that came late
                low, above = None, [highs[event.event_id]]
            groups.setdefault((low, min(above)), []).append(event.event_id)
        return await self._spread(room, groups)

    async def _spread(
        self, room: Room, groups: Mapping[_Between, Sequence[EventId]]
    ) -> dict[EventId, Order]:
        """Returns places for each group between its two neighbours."""
        given: dict[EventId, Order] = {}
        for between, event_ids in groups.items():
            places = places_between(*between, len(event_ids))
            if places is None:
                live_index = between[1][0]
                lowest = await self._store.events.lowest_gap_index(room.row_id, live_index)
                places = places_between(None, (live_index, lowest), len(event_ids))
            assert places is not None, "below all there is room"
            given.update(zip(event_ids, places, strict=True))
        return given

    async def _other_gaps(
        self, room: Room, chunk: Unplaced, gaps: Mapping[EventId, Order]
    ) -> Sequence[Order] | None:
        """Returns the places of the events that will still name missing ones; None: too many, or in
        the chunk itself."""
        inside = {event.event_id for event in chunk.stored}
        for event in chunk.stored:
            if not all(one in inside or one in chunk.places for one in event.prev_events):
                return None
        rows = await self._store.gaps.before(room.row_id, max(gaps.values()), limits.GAPS_LOOKED_AT)
        if len(rows) == limits.GAPS_LOOKED_AT:
            return None
        return [row.order for row in rows if row.missing not in inside]


def _is_clear(end: Ends, high: Order, others: Sequence[Order] | None) -> bool:
    """Returns whether an event is directly below its descendants. If not, it is directly above its
    ancestors: a missing event may descend from it, and be lower."""
    if not end.is_closed:
        return True
    return others is not None and not any(
        (end.low is None or end.low < other) and other < high for other in others
    )
