"""The threads of a room, the one with the newest event first.

Rules:
1. A thread is listed once, at the place of its newest event by a user whom the reader doesn't
   ignore, if the reader sees its root and one of its events.
2. The root is returned with its bundles; one by a user whom the reader ignores is redacted.
3. A page reads threads, not the events of the room; after a bounded number of steps it ends early.

Spec: client-server API, "Querying threads in a room".
"""

from __future__ import annotations

import msgspec
import orjson

from federation.events.ids import RoomId, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.log.log_history import LogHistory
from homeserver.engine.rooms.reader import END, Order, Reader, event_entry
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.sync.sync_tokens import Point, SyncToken
from homeserver.services.accounts.requester import Requester
from homeserver.services.timeline.access import ReadAccess
from homeserver.services.timeline.bundles import Bundle, Bundles, RoomEvents
from homeserver.services.timeline.client_events import Seen, Viewer, json_list, json_object, render
from homeserver.services.timeline.visibility import Visibility, redacted
from homeserver.storage.timeline.relations import (
    RelationTable,
    Scope,
    ThreadEventRow,
    ThreadWalk,
)


class ThreadsRequest(msgspec.Struct, frozen=True):
    """A page of a room's threads. `is_own`: only those in which the user spoke."""

    room_id: RoomId
    is_own: bool = False
    limit: int = limits.PAGE_EVENTS_DEFAULT
    start: Point | SyncToken | None = None


class _Reading(msgspec.Struct, frozen=True):
    """A reader of a room's threads. Events from `ceiling` on were sent after they had left."""

    user_id: UserId
    group: RoomEvents
    scope: Scope
    ceiling: Order
    request: ThreadsRequest

    @property
    def room(self) -> Room:
        """Returns the room."""
        return self.group.room


class _Thread(msgspec.Struct, frozen=True):
    """A thread that is listed: its root with its bundle, and the event that gives its place."""

    root: Seen
    bundle: Bundle
    newest: ThreadEventRow


class Threads:
    """Lists threads."""

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

    async def page(self, requester: Requester, request: ThreadsRequest) -> bytes:
        """Returns the JSON of a page. Raises 403 M_FORBIDDEN for a user who may not read the
        room."""
        user_id = requester.user_id
        room, user_room = await self._access.readable(user_id, request.room_id)
        ceiling = await self._visibility.seen_until(room, user_id, user_room)
        scope = await self._bundles.scope(room, user_id)
        reading = _Reading(user_id, RoomEvents(room, user_room, ()), scope, ceiling, request)
        before = END
        if request.start is not None:
            before = (await self._access.point(room, request.start)).before
        found, end = await self._listed(reading, before)
        viewer = Viewer(user_id, requester.device_id, self._clock.now_ms())
        shown = RoomEvents(room, user_room, [one.root for one in found])
        extras = await self._bundles.extras(
            viewer, [shown], {one.newest.root: one.bundle for one in found}
        )
        parts = [("chunk", json_list([render(one.root, viewer, extras) for one in found]))]
        if end is not None:
            token = self._log_history.format_point(Point(end))
            parts.append(("next_batch", orjson.dumps(token)))
        return json_object(parts)

    async def _listed(self, reading: _Reading, before: Order) -> tuple[list[_Thread], Order | None]:
        """Returns threads, and the place from which on there may be more."""
        found: list[_Thread] = []
        met: list[str] = []
        limit = reading.request.limit
        for _ in range(limits.THREAD_READS):
            walk = ThreadWalk(before, reading.ceiling, met, limit - len(found) + 1)
            rows = await self._table.in_threads(reading.room.row_id, reading.scope, walk)
            found += await self._seen(reading, [one for one in rows if one.is_newest])
            if len(found) > limit:
                return found[:limit], found[limit - 1].newest.order
            if len(rows) < walk.limit:
                return found, None
            before = rows[-1].order
            met += [one.root for one in rows]
        return found, before

    async def _seen(self, reading: _Reading, rows: list[ThreadEventRow]) -> list[_Thread]:
        """Returns the threads of which the reader sees the root and an event."""
        room, user_room, _ = reading.group
        user_id = reading.user_id
        places = await self._reader.places(room, [one.root for one in rows])
        placed = sorted(places.values(), key=lambda one: event_entry(one).order)
        seen = await self._visibility.visible(room, user_id, user_room, placed)
        roots = {one.entry.event.event_id: one for one in seen}
        bundles = await self._bundles.read(
            user_id,
            [RoomEvents(room, user_room, seen)],
            reading.scope.position,
            with_state=True,
        )
        listed = []
        for row in rows:
            bundle, root = bundles.get(row.root), roots.get(row.root)
            if root is None or bundle is None or bundle.thread is None:
                continue
            if reading.request.is_own and not bundle.thread.has_spoken:
                continue
            if root.entry.event.sender in reading.scope.hidden and not root.entry.event.is_state:
                root = redacted(root)
            listed.append(_Thread(root, bundle, row))
        return listed
