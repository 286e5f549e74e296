"""Gives fetched history its places in room order (`places`), between what stands there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId
from homeserver import limits
from homeserver.engine.history.places import Ends, Order, ends_of, places_between
from homeserver.engine.room import Room
from homeserver.engine.store import Store
from homeserver.storage.events import EventRow

_BEGINNING: Order = (0, -(2**53))
_Between = tuple[Order | None, Order]


class Unplaced(msgspec.Struct, frozen=True):
    """A chunk whose events have no places yet, parents first: all of it, what is stored of it, the
    rows of those that get a place, and the places of what was stored before."""

    events: Sequence[Event]
    stored: Sequence[Event]
    rows: Mapping[str, EventRow]
    places: Mapping[EventId, Order]


class RoomOrder:
    """Finds the places; the caller holds the room's turn."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def give_places(self, room: Room, chunk: Unplaced, gaps: Mapping[EventId, Order]) -> None:
        """Sets `n` and `fill` of the rows. `gaps`: the lowest places of stored events that name
        events of the chunk."""
        ends = ends_of(chunk.stored, stored=chunk.places, children=gaps)
        highs = ends_of(chunk.events, stored=chunk.places, children=gaps)
        fallback = min(gaps.values())
        others = await self._other_gaps(room, chunk, gaps)
        groups: dict[_Between, list[EventRow]] = {}
        # What lacks no ancestor comes first: what is missing may stand between it and the others.
        for event in sorted(chunk.stored, key=lambda one: not ends[one.event_id].is_closed):
            row = chunk.rows.get(event.event_id)
            if row is None:
                continue
            end = ends[event.event_id]
            high = highs[event.event_id].high or fallback
            between = await self._between(room, end, high, others)
            groups.setdefault(between, []).append(row)
        for between, rows in groups.items():
            places = places_between(*between, len(rows))
            if places is None:
                n = between[1][0]
                lowest = await self._store.events.lowest_fill(room.nid, n)
                places = places_between(None, (n, lowest), len(rows))
            assert places is not None, "below all there is room"
            for row, place in zip(rows, places, strict=True):
                row.n, row.fill = place

    async def _other_gaps(
        self, room: Room, chunk: Unplaced, gaps: Mapping[EventId, Order]
    ) -> Sequence[Order] | None:
        """The places of events that will still name missing ones; None: too many, or in the chunk
        itself."""
        inside = {event.event_id for event in chunk.stored}
        for event in chunk.stored:
            if not all(one in inside or one in chunk.places for one in event.prev_events):
                return None
        rows = await self._store.rooms.gaps_before(
            room.nid, max(gaps.values()), limits.GAPS_LOOKED_AT
        )
        if len(rows) == limits.GAPS_LOOKED_AT:
            return None
        return [(row["n"], row["fill"]) for row in rows if row["missing"] not in inside]

    async def _between(
        self, room: Room, end: Ends, high: Order, others: Sequence[Order] | None
    ) -> _Between:
        """The neighbours between which an event stands."""
        is_clear = others is not None and not any(
            (end.low is None or end.low < other) and other < high for other in others
        )
        if end.is_closed and not is_clear:
            low = end.low or _BEGINNING
            above = await self._store.events.behind(room.nid, low, 1)
            if above:
                return end.low, (above[0]["n"], above[0]["fill"])
        below = await self._store.events.before(room.nid, high, 1)
        return ((below[0]["n"], below[0]["fill"]) if below else None), high
