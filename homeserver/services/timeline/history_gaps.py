"""Fetches the missing events of a page of history from other servers, and determines where a page
has to end.

Rules:
1. One region of history at a time: the events missing below one live event, the nearest first.
   Other regions wait until the page is known to reach them.
2. Servers are asked for a bounded time for each page. A gap that remains ends the page, so that the
   next one begins at it and asks again; a page that begins at it continues behind it.
3. Both directions are treated alike. The context of an event never crosses a gap, since clients
   page on from its ends.

Spec: client-server API, /messages; server-server API, "Backfilling and retrieving missing events".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from homeserver import limits
from homeserver.engine.entries import Placed
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.sync.sync_tokens import Order, Point
from homeserver.services.timeline.backfill import RoomBackfill

Read = Callable[[], Awaitable[list[Placed]]]


class Reach(msgspec.Struct, frozen=True):
    """A page: its start, number of events, end, and direction. `over_first`: it continues behind a
    gap at its start that can't be filled."""

    start: Point
    limit: int
    stop: Point | None = None
    backwards: bool = True
    over_first: bool = True


class HistoryGaps:
    """Fills gaps for pages."""

    def __init__(self, reader: Reader, backfill: RoomBackfill | None) -> None:
        self._reader = reader
        self._backfill = backfill

    async def filled(self, room: Room, reach: Reach, read: Read) -> list[Placed]:
        """Returns the events that `read` reads of the page, in the order of reading, once gaps are
        filled as far as possible; it ends at a gap that remains."""
        found = await read()
        try:
            async with asyncio.timeout(limits.BACKFILL_WAIT_S):
                for _ in range(limits.GAPS_FILLED_PER_PAGE):
                    gaps = await self._gaps(room, reach, found)
                    if not gaps or not await self._fill(room, gaps, reach.limit):
                        break
                    found = await read()
        except TimeoutError:
            found = await read()  # more events may have been stored before
        for gap in await self._gaps(room, reach, found):
            kept = _up_to(gap, reach, found)
            if kept or not reach.over_first:
                return kept
        return found

    async def is_left(
        self, room: Room, end: Point, stop: Point | None, *, backwards: bool = True
    ) -> bool:
        """Returns whether events are missing from a point on."""
        gaps = await self._reader.gap_places(room, end.before, 1, backwards=backwards)
        return any(stop is None or _is_within(one, stop.before, backwards) for one in gaps)

    async def _gaps(self, room: Room, reach: Reach, found: Sequence[Placed]) -> list[Order]:
        """Returns the places below which the page lacks events, the nearest first."""
        start, backwards = reach.start.before, reach.backwards
        places = await self._reader.gap_places(
            room, start, limits.GAPS_ASKED_AT_ONCE, backwards=backwards
        )
        ends = [reach.stop.before] if reach.stop is not None else []
        if len(found) >= reach.limit:
            ends.append(event_entry(found[-1]).order if found else start)
        return [one for one in places if all(_is_within(one, end, backwards) for end in ends)]

    async def _fill(self, room: Room, gaps: Sequence[Order], limit: int) -> bool:
        if self._backfill is None:
            return False
        region = [one for one in gaps if one[0] == gaps[0][0]]
        children = await self._reader.at_places(room, region)
        return bool(children) and await self._backfill.fetch(room, children, limit=limit)


def _is_within(gap: Order, end: Order, backwards: bool) -> bool:
    return gap >= end if backwards else gap <= end


def _up_to(gap: Order, reach: Reach, found: Sequence[Placed]) -> list[Placed]:
    """Returns the part of a page before a gap is reached: missing events lie below the gap's
    place.
    """
    orders = [(placed, event_entry(placed).order) for placed in found]
    if reach.backwards:
        return [placed for placed, order in orders if order >= gap]
    return [placed for placed, order in orders if order < gap]
