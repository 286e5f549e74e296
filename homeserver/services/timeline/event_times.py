"""The event of a room that is nearest to a time.

Rules:
1. The time of an event is what its server says; of a bounded number of events that are near, the
   nearest one that the reader may see is given.
2. Where history is missing around the time, it is fetched first, for a bounded time. So what is
   given can be paged from; other servers aren't asked for an event whose place wasn't known here.

Spec: client-server API, GET /timestamp_to_event; server-server API, likewise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from federation.event_time_ports import TimedEvent
from federation.events.ids import EventId, RoomId
from homeserver import limits
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.rooms.reader import END, Reader, event_entry
from homeserver.engine.rooms.rooms import Room
from homeserver.errors import not_found
from homeserver.services.accounts.requester import Requester
from homeserver.services.timeline.access import ReadAccess
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage.database import Database
from homeserver.storage.timeline.event_times import EventTimeTable, TimedEventRow


class _Reading(msgspec.Struct, frozen=True):
    """A room, and its reader with their membership."""

    room: Room
    user_room: UserRoom | None
    requester: Requester


class EventTimes:
    """Finds events by time, for clients. Without `backfill`, history that is missing isn't
    fetched."""

    def __init__(
        self,
        database: Database,
        access: ReadAccess,
        visibility: Visibility,
        reader: Reader,
        *,
        backfill: RoomBackfill | None,
    ) -> None:
        self._table, self._access, self._visibility = EventTimeTable(database), access, visibility
        self._reader, self._backfill = reader, backfill

    async def nearest(
        self, requester: Requester, room_id: RoomId, time_ms: int, *, backwards: bool
    ) -> TimedEventRow:
        """Returns the event. Raises 403 M_FORBIDDEN for a room that the user may not read, 404
        M_NOT_FOUND if there is none."""
        reading = _Reading(*await self._access.readable(requester.user_id, room_id), requester)
        found = await self._find(reading, time_ms, backwards=backwards)
        try:
            async with asyncio.timeout(limits.BACKFILL_WAIT_S):
                for _ in range(limits.GAPS_FILLED_BY_TIME):
                    is_exact = found is not None and found.sent_ms == time_ms
                    if is_exact or not await self._fill(reading.room, time_ms):
                        break
                    found = await self._find(reading, time_ms, backwards=backwards)
        except TimeoutError:  # more events may have been stored before
            found = await self._find(reading, time_ms, backwards=backwards)
        if found is None:
            direction = "before" if backwards else "after"
            raise not_found(f"There is no event {direction} this time that you may see")
        return found

    async def _find(
        self, reading: _Reading, time_ms: int, *, backwards: bool
    ) -> TimedEventRow | None:
        """Returns the nearest event that is stored, and that the reader may see."""
        last, at_once = None, limits.EVENTS_BY_TIME_AT_ONCE
        for _ in range(0, limits.EVENTS_BY_TIME, at_once):
            rows = await self._table.nearest(
                reading.room.room_id, time_ms, backwards=backwards, after=last, limit=at_once
            )
            visible = await self._visible(reading, rows)
            for row in rows:
                if row.event_id in visible:
                    return row
            if len(rows) < at_once:
                break
            last = rows[-1]
        return None

    async def _visible(self, reading: _Reading, rows: Sequence[TimedEventRow]) -> set[EventId]:
        room = reading.room
        placed = sorted(
            (await self._reader.places(room, [row.event_id for row in rows])).values(),
            key=lambda one: event_entry(one).order,
        )
        user_id, user_room = reading.requester.user_id, reading.user_room
        seen = await self._visibility.visible(room, user_id, user_room, placed)
        return {one.entry.event.event_id for one in seen}

    async def _fill(self, room: Room, time_ms: int) -> bool:
        """Fetches history that is missing where the time is: below the first event of that time or
        later. Returns whether any was stored."""
        if self._backfill is None:
            return False
        later = await self._table.nearest(room.room_id, time_ms, backwards=False, limit=1)
        place = later[0].order if later else END
        gaps = await self._reader.gap_places(room, place, 1, backwards=True)
        children = await self._reader.at_places(room, gaps)
        if all(child.origin_server_ts < time_ms for child in children):
            return False  # what is missing is older
        return await self._backfill.fetch(room, children, limit=limits.BACKFILL_EVENTS)


class EventTimesForServers:
    """`ServedEventTimes`: what is stored here, for other servers."""

    def __init__(self, database: Database) -> None:
        self._table = EventTimeTable(database)

    async def nearest(
        self, room_id: RoomId, time_ms: int, *, backwards: bool, limit: int
    ) -> list[TimedEvent]:
        """`ServedEventTimes.nearest`."""
        rows = await self._table.nearest(room_id, time_ms, backwards=backwards, limit=limit)
        return [TimedEvent(row.event_id, row.sent_ms) for row in rows]
