"""The timeline of one room in a sync: the newest events that the reader may see and asked for.

Rules:
1. A filter that keeps events out makes us read further back, within a bound; what lies between
   still counts as told, and `prev_batch` stands before all that was looked at.
2. `limited` says that there is more before: more than was asked for, or, where the client knows
   nothing of the room yet, history that we lack.

Spec: client-server API, /sync, `timeline`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId, UserId
from homeserver import limits
from homeserver.engine.entries import EventEntry
from homeserver.engine.log import Placed
from homeserver.engine.memberships import UserRoom
from homeserver.engine.reader import Reader
from homeserver.engine.rooms import Room
from homeserver.rules.filters import EventFilter
from homeserver.rules.sync_tokens import Point, just_after, just_before
from homeserver.services.client_events import Seen
from homeserver.services.visibility import Visibility

_FILTERED_READ = 5  # times the limit are read when a filter keeps events out


class Timeline(msgspec.Struct, frozen=True):
    """What a reader gets. `read` has all events that were looked at, oldest first."""

    events: list[Seen]
    read: Sequence[Placed]
    limited: bool
    prev: Point | None

    @property
    def start(self) -> int | None:
        """The position of the first event, if there is one."""
        return self.events[0].placed.position if self.events else None

    @property
    def ids(self) -> set[EventId]:
        """The events that the reader gets."""
        return {seen.entry.event.event_id for seen in self.events}


NOTHING = Timeline([], (), False, None)


class Timelines:
    """Reads timelines."""

    def __init__(self, reader: Reader, visibility: Visibility) -> None:
        self._reader = reader
        self._visibility = visibility

    async def newest(
        self,
        room: Room,
        reader: tuple[UserId, UserRoom],
        wanted: EventFilter,
        *,
        after: int,
        upto: int,
        is_whole: bool,
    ) -> Timeline:
        """Events with after < position <= upto. `is_whole`: the client knows nothing of the room
        yet, so that missing history makes it limited."""
        limit = limits.SYNC_TIMELINE_EVENTS if wanted.limit is None else wanted.limit
        to_read = max(1, limit)
        if not wanted.allows_all:
            to_read = min(to_read * _FILTERED_READ, limits.PAGE_EVENTS)
        part = await self._reader.newest(room, after=after, upto=upto, limit=to_read)
        user_id, user_room = reader
        seen = await self._visibility.visible(room, user_id, user_room, part.events)
        if not wanted.allows_all:
            seen = [one for one in seen if allows(wanted, one.entry)]
        is_cut = len(seen) > limit
        kept = seen[len(seen) - limit :] if is_cut else seen
        limited = part.limited or is_cut
        if is_whole and part.events and not limited:
            limited = _entry(part.events[0]).event.type != "m.room.create"
        return Timeline(kept, part.events, limited, self._prev(kept, part.events, is_cut))

    def _prev(self, kept: Sequence[Seen], read: Sequence[Placed], is_cut: bool) -> Point | None:
        if kept and is_cut:
            return just_before(kept[0].entry.order)
        if is_cut:
            return just_after(_entry(read[-1]).order)
        return just_before(_entry(read[0]).order) if read else None


def allows(wanted: EventFilter, entry: EventEntry) -> bool:
    """Does a filter let an event through?"""
    event = entry.event
    return wanted.allows_room(event.room_id) and wanted.allows(
        event.type, event.sender, "url" in event.content
    )


def _entry(placed: Placed) -> EventEntry:
    entry = placed.entry
    assert isinstance(entry, EventEntry), "timelines hold events"
    return entry
