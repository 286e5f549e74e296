"""Finds fetched history whose place is too high, now that more of the graph is known.

An event that is fetched before its descendants through another gap is placed by its known
descendants. A chunk may show that it has descendants further down: then it has to move below them.
Live events keep their places: clients received them in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId
from homeserver import limits
from homeserver.engine.remote.places import Order
from homeserver.engine.rooms.stored import known_event
from homeserver.engine.store import EngineStore


class Displaced(msgspec.Struct, frozen=True):
    """An event that has to move below `high`."""

    event: Event
    high: Order


class Ancestors(msgspec.Struct, frozen=True):
    """The events to move; and of all events that were read, the places, and which ones are
    stored.
    """

    displaced: Mapping[EventId, Displaced]
    places: Mapping[EventId, Order]
    known: Set[EventId]


class AncestorWalk:
    """Walks from events to those of their ancestors that are above their descendants."""

    def __init__(
        self, store: EngineStore, events: Iterable[Event], places: Mapping[EventId, Order]
    ) -> None:
        self._store = store
        self._events = {event.event_id: event for event in events}
        self._places = dict(places)
        self._lowest: dict[EventId, Order] = {}
        self._looked_for: set[EventId] = set()
        self._walked: set[EventId] = set()
        self._known: set[EventId] = set(places)

    async def walk(self, highs: Mapping[EventId, Order]) -> Ancestors:
        """Returns the events to move. `highs`: the lowest places of the events' descendants. Past a
        bound, history further back stays where it is."""
        self._lowest.update(highs)
        work = list(highs)
        while work and len(self._looked_for) < limits.HISTORY_ANCESTORS_LOOKED_AT:
            await self._load(work)
            self._walked.update(work)
            work = self._step(work)
        displaced = {
            one: Displaced(self._events[one], high)
            for one, high in self._lowest.items()
            if one in self._walked and one in self._events and self._is_movable(one, high)
        }
        return Ancestors(displaced, self._places, self._known)

    def _is_movable(self, event_id: EventId, high: Order) -> bool:
        place = self._places.get(event_id)
        return place is not None and place > high and place[1] != 0

    def _step(self, event_ids: Sequence[EventId]) -> list[EventId]:
        """Continues to the parents that are too high, or whose place isn't known."""
        found: dict[EventId, None] = {}
        for event_id in event_ids:
            event, high = self._events.get(event_id), self._lowest[event_id]
            for parent in event.prev_events if event is not None else ():
                place, known = self._places.get(parent), self._lowest.get(parent)
                is_right = place is not None and place < high
                if not is_right and (known is None or high < known):
                    self._lowest[parent] = high
                    found[parent] = None
        return list(found)

    async def _load(self, event_ids: Sequence[EventId]) -> None:
        """Reads the events, and then their parents, for their places."""
        await self._read(event_ids)
        parents = {
            parent
            for one in event_ids
            if one in self._events
            for parent in self._events[one].prev_events
        }
        await self._read(parents)

    async def _read(self, event_ids: Iterable[EventId]) -> None:
        wanted = {one for one in event_ids if one not in self._events} - self._looked_for
        if not wanted:
            return
        self._looked_for |= wanted
        for row in await self._store.events.by_id(wanted):
            event_id = row.event_id
            self._events[event_id] = known_event(row).event
            if not row.outlier:
                self._known.add(event_id)
            if row.order is not None:
                self._places[event_id] = row.order
