"""Has what a page of history lacks fetched from other servers, and says where a page has to end.

Rules:
1. One region of history at a time: what is missing below one live event, the nearest first. Others
   wait until the page is known to reach them.
2. Servers are asked for a bounded time for each page. A gap that is left ends the page, so that
   the next one begins at it and asks again; a page that begins at it goes on behind it.

Spec: client-server API, /messages; server-server API, "Backfilling and retrieving missing events".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from federation.events.event import Event
from homeserver import limits
from homeserver.engine.log import Placed
from homeserver.engine.reader import Reader, event_entry
from homeserver.engine.rooms import Room
from homeserver.rules.sync_tokens import Order, Point

Read = Callable[[], Awaitable[list[Placed]]]


class Backfill(Protocol):
    """Asks other servers for history before a place, and has it stored."""

    async def __call__(self, room: Room, children: Sequence[Event], *, limit: int) -> bool:
        """`children` are events some of whose parents aren't here. Returns whether there is more
        now; doesn't raise for what other servers do."""


class Reach(msgspec.Struct, frozen=True):
    """A page that is read backwards: from where, how many events, and where it is to stop."""

    start: Point
    limit: int
    stop: Point | None


class HistoryGaps:
    """Fills gaps for pages."""

    def __init__(self, reader: Reader, backfill: Backfill | None) -> None:
        self._reader = reader
        self._backfill = backfill

    async def filled(self, room: Room, reach: Reach, read: Read) -> list[Placed]:
        """What `read` reads of the page, newest first, once that is filled as far as may be; it
        ends at a gap that is left."""
        found = await read()
        try:
            async with asyncio.timeout(limits.BACKFILL_WAIT_S):
                for _ in range(limits.GAPS_FILLED_PER_PAGE):
                    gaps = await self._gaps(room, reach, found)
                    if not gaps or not await self._fill(room, gaps, reach.limit):
                        break
                    found = await read()
        except TimeoutError:
            found = await read()  # more may have come before
        left = [one for one in await self._gaps(room, reach, found) if one < reach.start.before]
        if not left:
            return found
        return [placed for placed in found if event_entry(placed).order >= left[0]]

    async def is_left(self, room: Room, below: Point, stop: Point | None) -> bool:
        """Is something missing at or below a point?"""
        gaps = await self._reader.gap_places(room, below.before, 1)
        return any(stop is None or one >= stop.before for one in gaps)

    async def _gaps(self, room: Room, reach: Reach, found: Sequence[Placed]) -> list[Order]:
        """The places below which the page lacks something, the nearest first."""
        places = await self._reader.gap_places(room, reach.start.before, limits.GAPS_ASKED_AT_ONCE)
        end = reach.stop.before if reach.stop is not None else None
        if len(found) >= reach.limit:
            last = event_entry(found[-1]).order
            end = last if end is None else max(end, last)
        return [one for one in places if end is None or one >= end]

    async def _fill(self, room: Room, gaps: Sequence[Order], limit: int) -> bool:
        if self._backfill is None:
            return False
        region = [one for one in gaps if one[0] == gaps[0][0]]
        children = await self._reader.at_places(room, region)
        return bool(children) and await self._backfill(room, children, limit=limit)
