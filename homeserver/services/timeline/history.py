"""Reading a room's past: pages of messages, one event, the context of an event.

Rules:
1. Pages go by room order, never by `depth`. A page begins and ends at points between events, so
   that the next one neither skips nor repeats events, also with the tokens of a sync.
2. Events that a reader may not see are left out; a user who was never in the room, and may not
   peek, gets 403.
3. If history is missing at or behind the page, in either direction, other servers are asked for a
   bounded time; then the page has the events stored here (`history_gaps`). It has an `end` while
   anything is missing.
4. A user who isn't in the room any more gets the state of when they were.
5. Events have their aggregations (`bundles`); those of a page's state don't.

Spec: client-server API, /messages, /event, /context; "Lazy-loading room members".
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import msgspec
import orjson

from federation.events import event_types
from federation.events.ids import EventId, RoomId, StateKey, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import Placed
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.log.log_history import LogHistory
from homeserver.engine.rooms.reader import BEGINNING, Reader, event_entry
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.rules.sync.filters import EventFilter
from homeserver.rules.sync.sync_tokens import Order, Point, SyncToken, just_after, just_before
from homeserver.services.accounts.requester import Requester
from homeserver.services.timeline.access import ReadAccess
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.bundles import Bundles, RoomEvents
from homeserver.services.timeline.client_events import (
    Seen,
    Viewer,
    allows,
    json_list,
    json_object,
    load_extras,
    needed,
    render,
)
from homeserver.services.timeline.history_gaps import HistoryGaps, Reach
from homeserver.services.timeline.visibility import Visibility

_GONE = ("leave", "ban", "knock")


class PageRequest(msgspec.Struct, frozen=True):
    """One page of messages. `start` None: from the end (backwards) or the beginning."""

    room_id: RoomId
    backwards: bool
    start: Point | SyncToken | None = None
    stop: Point | SyncToken | None = None
    limit: int = limits.PAGE_EVENTS_DEFAULT
    filter: EventFilter = EventFilter()


class _Where(msgspec.Struct, frozen=True):
    """A room, and its reader with their membership."""

    room: Room
    user_id: UserId
    user_room: UserRoom | None


class _Page(msgspec.Struct, frozen=True):
    """Events in the order of reading. `end` None: there are no more."""

    events: Sequence[Seen]
    end: Point | None


class History:
    """Answers reads of a room's history."""

    def __init__(
        self,
        rooms: Rooms,
        reader: Reader,
        access: ReadAccess,
        visibility: Visibility,
        bundles: Bundles,
        *,
        clock: Clock,
        log_history: LogHistory,
        backfill: RoomBackfill | None = None,
    ) -> None:
        self._rooms = rooms
        self._reader = reader
        self._access = access
        self._visibility = visibility
        self._bundles = bundles
        self._clock = clock
        self._log_history = log_history
        self._gaps = HistoryGaps(reader, backfill)

    # Messages

    async def messages(self, requester: Requester, request: PageRequest) -> bytes:
        """Returns the JSON of a page. Raises 403 M_FORBIDDEN for a user who may not read the
        room.
        """
        room, user_room = await self._access.readable(requester.user_id, request.room_id)
        where = _Where(room, requester.user_id, user_room)
        start = await self._start(where, request)
        stop = None
        if request.stop is not None:
            stop = await self._access.point(room, request.stop)
        page = await self._page(where, request, start, stop)
        viewer = self._viewer(requester)
        extras = await self._bundles.extras(viewer, [RoomEvents(room, user_room, page.events)])
        parts = [
            ("start", self._token(start)),
            ("chunk", json_list([render(seen, viewer, extras) for seen in page.events])),
        ]
        if page.end is not None:
            parts.append(("end", self._token(page.end)))
        if request.filter.lazy_load_members and page.events:
            parts.append(("state", json_list(await self._members(where, page.events))))
        return json_object(parts)

    async def _page(
        self, where: _Where, request: PageRequest, start: Point, stop: Point | None
    ) -> _Page:
        room = where.room

        async def read() -> list[Placed]:
            return await self._read(room, request, start, stop)

        reach = Reach(start, request.limit, stop, backwards=request.backwards)
        found = await self._gaps.filled(room, reach, read)
        in_order = found[::-1] if request.backwards else found
        seen = await self._visibility.visible(room, where.user_id, where.user_room, in_order)
        if request.backwards:
            seen.reverse()
        kept = [one for one in seen if allows(request.filter, one.entry)]
        kept = await self._bundles.related_by(
            where.user_id, RoomEvents(room, where.user_room, kept), request.filter
        )
        end = start
        if found:
            last = event_entry(found[-1]).order
            end = just_before(last) if request.backwards else just_after(last)
        return _Page(kept, end if await self._has_more(room, request, end, stop, found) else None)

    async def _has_more(
        self,
        room: Room,
        request: PageRequest,
        end: Point,
        stop: Point | None,
        found: Sequence[Placed],
    ) -> bool:
        """Returns whether there may be more behind the end of a page, here or on other servers."""
        if len(found) == request.limit:
            return not request.backwards or event_entry(found[-1]).event.type != event_types.CREATE
        return await self._gaps.is_left(room, end, stop, backwards=request.backwards)

    async def _read(
        self, room: Room, request: PageRequest, start: Point, stop: Point | None
    ) -> list[Placed]:
        """Returns the events from a point on, in the direction of reading."""
        live_index, gap_index = start.before
        found = await self._reader.page(
            room,
            # A point is before its place; `page` excludes the place that it begins at.
            start=start.before if request.backwards else (live_index, gap_index - 1),
            backwards=request.backwards,
            limit=request.limit,
        )
        if stop is None:
            return found
        if request.backwards:
            return [one for one in found if event_entry(one).order >= stop.before]
        return [one for one in found if event_entry(one).order < stop.before]

    async def _start(self, where: _Where, request: PageRequest) -> Point:
        room, own = where.room, where.user_room
        if request.start is not None:
            return await self._access.point(room, request.start)
        if not request.backwards:
            return Point(BEGINNING)
        if own is not None and own.membership in _GONE and not await self._is_current(where):
            left = await self._reader.place(room, own.event_id)
            if left is not None:
                return just_after(event_entry(left).order)
        return just_after((room.view.live_index, 0))

    async def _members(self, where: _Where, events: Sequence[Seen]) -> list[bytes]:
        """Returns the member events of the senders: the current ones, or those that the reader last
        saw.
        """
        state: Mapping[StateKey, StateRef] = where.room.view.state
        if not await self._is_current(where):
            state = await self._visibility.last_seen(where.room, where.user_id, where.user_room)
        senders = {seen.entry.event.sender for seen in events}
        ids = [
            ref.event_id
            for sender in sorted(senders)
            if (ref := state.get((event_types.MEMBER, sender))) is not None
        ]
        return list((await self._rooms.client_events(ids)).values())

    # One event

    async def event(self, requester: Requester, room_id: RoomId, event_id: EventId) -> bytes:
        """Returns the JSON of an event. Raises 404 M_NOT_FOUND if there is none that the user may
        see.
        """
        room, user_room, seen = await self._access.event(requester.user_id, room_id, event_id)
        viewer = self._viewer(requester)
        extras = await self._bundles.extras(viewer, [RoomEvents(room, user_room, [seen])])
        return render(seen, viewer, extras)

    async def event_alone(self, requester: Requester, room_id: RoomId, event_id: EventId) -> bytes:
        """Returns the same without aggregations, for push."""
        _, _, seen = await self._access.event(requester.user_id, room_id, event_id)
        viewer = self._viewer(requester)
        return render(seen, viewer, await load_extras(self._rooms, needed([seen]), viewer))

    async def is_seen(self, user_id: UserId, room_id: RoomId, event_id: EventId) -> bool:
        """Returns whether a user is joined to a room, and may see an event of it."""
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined_local:
            return False
        return await self._access.find(user_id, room_id, event_id) is not None

    async def context(
        self,
        requester: Requester,
        room_id: RoomId,
        event_id: EventId,
        *,
        limit: int,
        wanted: EventFilter,
    ) -> bytes:
        """Returns the JSON of an event with up to `limit` events around it, and the state at the
        last of them. Raises 403 for a user who may not read the room, 404 as `event`."""
        room, user_room = await self._access.readable(requester.user_id, room_id)
        seen = (await self._access.event(requester.user_id, room_id, event_id)).seen
        order = seen.entry.order
        before, after = await self._around(room, order, limit)
        around = [*before[::-1], seen.placed, *after]
        visible = await self._visibility.visible(room, requester.user_id, user_room, around)
        viewer = self._viewer(requester)
        kept = [one for one in visible if one.placed is seen.placed or allows(wanted, one.entry)]
        asked = await self._bundles.related_by(
            requester.user_id, RoomEvents(room, user_room, kept), wanted
        )
        kept = [one for one in kept if one.placed is seen.placed or one in asked]
        extras = await self._bundles.extras(viewer, [RoomEvents(room, user_room, kept)])
        shown = {one.entry.event.event_id: render(one, viewer, extras) for one in kept}
        end = event_entry(around[-1])
        where = _Where(room, requester.user_id, user_room)
        state = await self._context_state(where, _last(shown, visible))
        parts = [
            ("start", self._token(just_before(event_entry(around[0]).order))),
            ("end", self._token(just_after(end.order))),
            ("events_before", json_list(_pick(shown, before))),
            ("event", shown[event_id]),
            ("events_after", json_list(_pick(shown, after))),
            ("state", json_list(await self._state_events(state, visible, wanted))),
        ]
        return json_object(parts)

    async def _around(
        self, room: Room, order: Order, limit: int
    ) -> tuple[list[Placed], list[Placed]]:
        """Returns the events before a place, newest first, and those after it; together at most
        `limit`.
        """

        async def side(most: int, start: Point, backwards: bool) -> list[Placed]:
            async def read() -> list[Placed]:
                return await self._reader.page(room, start=order, backwards=backwards, limit=most)

            reach = Reach(start, most, backwards=backwards, over_first=False)
            if most == 0:
                return []
            return await self._gaps.filled(room, reach, read)

        half = limit // 2
        before, after = await asyncio.gather(
            side(half, just_before(order), True), side(limit - half, just_after(order), False)
        )
        return before, after

    async def _context_state(self, where: _Where, last: Seen) -> Mapping[StateKey, StateRef]:
        """Returns the state at the last event that is shown. A reader who isn't joined, and sees
        that event only by an invite, gets the state of when they were joined."""
        room = where.room
        state = await self._rooms.state_after(room, last.entry.event.event_id)
        if await self._is_current(where):
            return room.view.state if state is None else state
        if state is None or last.by_invite:
            return await self._visibility.last_seen(room, where.user_id, where.user_room)
        return state

    async def _state_events(
        self, state: Mapping[StateKey, StateRef], visible: Sequence[Seen], wanted: EventFilter
    ) -> list[bytes]:
        senders = {seen.entry.event.sender for seen in visible}
        ids = [
            ref.event_id
            for key, ref in state.items()
            if wanted.allows_type(key[0])
            and (not wanted.lazy_load_members or key[0] != event_types.MEMBER or key[1] in senders)
        ]
        return list((await self._rooms.client_events(ids)).values())

    # Readers

    async def _is_current(self, where: _Where) -> bool:
        """Returns whether the reader sees the room's current state."""
        if where.user_room is not None and where.user_room.membership == "join":
            return True
        return await self._visibility.is_world_readable(where.room)

    def _token(self, point: Point) -> bytes:
        return orjson.dumps(self._log_history.format_point(point))

    def _viewer(self, requester: Requester) -> Viewer:
        return Viewer(requester.user_id, requester.device_id, self._clock.now_ms())


def _last(shown: Collection[EventId], visible: Sequence[Seen]) -> Seen:
    """Returns the last of the events that are shown."""
    return next(one for one in reversed(visible) if one.entry.event.event_id in shown)


def _pick(shown: dict[EventId, bytes], placed: Sequence[Placed]) -> list[bytes]:
    ids = [event_entry(one).event.event_id for one in placed]
    return [shown[event_id] for event_id in ids if event_id in shown]
