"""The children of an event: pages of the events that relate to it.

Rules:
1. Pages go by room order, as those of messages, and take the same tokens. A page is filled as far
   as there are children that the reader sees; those of ignored users are left out.
2. With `recurse`, children of children are in it too, down to a depth that the answer names. Each
   one on the way has to match the asked kind and type. Of an event with very many of them, a page
   has the direct ones alone.

Spec: client-server API, "Relationships API".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import orjson

from federation.events.ids import EventId, RoomId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.log.log_history import LogHistory
from homeserver.engine.rooms.reader import BEGINNING, Reader, event_entry
from homeserver.rules.sync.sync_tokens import Point, SyncToken, just_after, just_before
from homeserver.services.accounts.requester import Requester
from homeserver.services.timeline.access import ReadAccess, SeenInRoom
from homeserver.services.timeline.bundles import Bundles, RoomEvents
from homeserver.services.timeline.client_events import Seen, Viewer, json_list, json_object, render
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage.text import escape
from homeserver.storage.timeline.events import StoredEventRow
from homeserver.storage.timeline.relations import OrderSpan, RelationTable, Scope, WantedChildren


class RelationsRequest(msgspec.Struct, frozen=True):
    """A page of an event's children. `recurse` None: the client didn't say."""

    room_id: RoomId
    event_id: EventId
    rel_type: str | None = None
    event_type: str | None = None
    start: Point | SyncToken | None = None
    stop: Point | SyncToken | None = None
    limit: int = limits.PAGE_EVENTS_DEFAULT
    backwards: bool = True
    recurse: bool | None = None


class _Page(msgspec.Struct, frozen=True):
    """Children in the order of reading. `end` None: there are no more."""

    events: Sequence[Seen]
    end: Point | None
    depth: int


class Relations:
    """Answers reads of an event's children."""

    def __init__(
        self,
        access: ReadAccess,
        reader: Reader,
        visibility: Visibility,
        bundles: Bundles,
        table: RelationTable,
        *,
        clock: Clock,
        log_history: LogHistory,
    ) -> None:
        self._access = access
        self._reader = reader
        self._visibility = visibility
        self._bundles = bundles
        self._table = table
        self._clock = clock
        self._log_history = log_history

    async def children(self, requester: Requester, request: RelationsRequest) -> bytes:
        """Returns the JSON of a page. Raises 404 M_NOT_FOUND for an event that the user may not
        see."""
        parent = await self._access.event(requester.user_id, request.room_id, request.event_id)
        page = await self._page(requester, parent, request)
        viewer = Viewer(requester.user_id, requester.device_id, self._clock.now_ms())
        group = RoomEvents(parent.room, parent.user_room, page.events)
        extras = await self._bundles.extras(viewer, [group])
        parts = [("chunk", json_list([render(one, viewer, extras) for one in page.events]))]
        if page.end is not None:
            parts.append(("next_batch", self._token(page.end)))
        if request.start is not None:
            start = await self._access.point(parent.room, request.start)
            parts.append(("prev_batch", self._token(start)))
        if request.recurse is not None:
            parts.append(("recursion_depth", b"%d" % page.depth))
        return json_object(parts)

    async def _page(
        self, requester: Requester, parent: SeenInRoom, request: RelationsRequest
    ) -> _Page:
        room, stop = parent.room, None
        start = Point(BEGINNING)
        if request.start is not None:
            start = await self._access.point(room, request.start)
        elif request.backwards:
            start = just_after((room.view.live_index, 0))
        if request.stop is not None:
            stop = (await self._access.point(room, request.stop)).before
        scope = await self._bundles.scope(room, requester.user_id)
        kept: list[Seen] = []
        depth = 1
        for _ in range(limits.RELATED_READS):
            wanted = request.limit - len(kept)
            span = OrderSpan(start.before, stop, request.backwards, wanted + 1)
            rows, depth = await self._rows(room.row_id, scope, request, span)
            kept += await self._seen(requester, parent, rows[:wanted], request)
            if len(rows) <= wanted:
                return _Page(kept, None, depth)
            start = _behind(rows[wanted - 1], request)
            if len(kept) == request.limit:
                break
        return _Page(kept, start, depth)

    async def _rows(
        self, room_row_id: int, scope: Scope, request: RelationsRequest, span: OrderSpan
    ) -> tuple[list[StoredEventRow], int]:
        """Returns children, and the depth down to which they were looked for."""
        event_type = None if request.event_type is None else escape(request.event_type)
        wanted = WantedChildren(room_row_id, request.event_id, request.rel_type, event_type)
        if request.recurse:
            found = await self._table.descendants(
                wanted, scope, span, depth=limits.RELATIONS_DEPTH, most=limits.RELATIONS_RECURSED
            )
            if found is not None:
                return found, limits.RELATIONS_DEPTH
        return await self._table.children(wanted, scope, span), 1

    async def _seen(
        self,
        requester: Requester,
        parent: SeenInRoom,
        rows: Sequence[StoredEventRow],
        request: RelationsRequest,
    ) -> list[Seen]:
        """Returns those of the children that the reader sees, in the order of reading."""
        placed = [self._reader.placed(row, parent.room) for row in rows]
        placed.sort(key=lambda one: event_entry(one).order)
        seen = await self._visibility.visible(
            parent.room, requester.user_id, parent.user_room, placed
        )
        return seen[::-1] if request.backwards else seen

    def _token(self, point: Point) -> bytes:
        return orjson.dumps(self._log_history.format_point(point))


def _behind(row: StoredEventRow, request: RelationsRequest) -> Point:
    return just_before(row.place) if request.backwards else just_after(row.place)
