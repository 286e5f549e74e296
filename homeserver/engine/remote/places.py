"""Places of fetched history in room order: after all of its ancestors, before all of its
descendants, whichever is fetched first.

Rules:
1. An event gets the place directly below its lowest descendant. While events between the two ends
   are missing, these may be lower descendants: then an event all of whose ancestors have a place
   gets the place directly above the highest of them. An event that turns out to be above a
   descendant is moved (`displaced`).
2. Places are spaced, so that events fetched later fit between them. If no room is left, an event
   goes below all history under the same live event: out of order, but present.

Pure. Room order is `(live_index, gap_index)`: live events `(live_index, 0)`, history below them
`(live_index, -1)` and less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId

Order = tuple[int, int]

SPACING = 2**20
"""The space between two places: a gap between them can be halved about twenty times."""


class Ends(msgspec.Struct, frozen=True):
    """The bounds of an event of a chunk. `is_closed`: none of its ancestors is missing; then `low`
    is the highest of them with a place, None if there is none. `high`: its lowest descendant with a
    place, if one is known."""

    low: Order | None
    high: Order | None
    is_closed: bool


def ends_of(
    events: Sequence[Event],
    *,
    stored: Mapping[EventId, Order],
    children: Mapping[EventId, Order],
) -> dict[EventId, Ends]:
    """Returns the bounds of each event of a chunk, parents first. `stored`: the places of parents
    that aren't in the chunk and have one; `children`: the lowest places of stored events that name
    events of the chunk."""
    lows = _lows(events, stored)
    highs = _highs(events, children)
    return {
        one.event_id: Ends(
            lows.get(one.event_id), highs.get(one.event_id), is_closed=one.event_id in lows
        )
        for one in events
    }


def _lows(events: Iterable[Event], stored: Mapping[EventId, Order]) -> dict[EventId, Order | None]:
    """Returns the highest stored ancestor of each event that has no missing one."""
    lows: dict[EventId, Order | None] = {}
    for event in events:
        parents = event.prev_events
        if all(parent in lows or parent in stored for parent in parents):
            found = (lows[one] if one in lows else stored[one] for one in parents)
            lows[event.event_id] = max((one for one in found if one is not None), default=None)
    return lows


def _highs(events: Sequence[Event], children: Mapping[EventId, Order]) -> dict[EventId, Order]:
    """Returns the lowest stored descendant of each event that has one."""
    highs = {one.event_id: children[one.event_id] for one in events if one.event_id in children}
    for event in reversed(events):
        high = highs.get(event.event_id)
        if high is not None:
            for parent in event.prev_events:
                highs[parent] = min(high, highs.get(parent, high))
    return highs


def places_between(low: Order | None, high: Order, count: int) -> list[Order] | None:
    """Returns this many places between two neighbours, ascending; `low` None: `high` is the first
    of all. None if they don't fit."""
    live_index, gap_index = high
    if low is None or low[0] != live_index:
        return [(live_index, gap_index - SPACING * (count - i)) for i in range(count)]
    step = min(SPACING, (gap_index - low[1]) // (count + 1))
    if step < 1:
        return None
    return [(live_index, gap_index - step * (count - i)) for i in range(count)]
