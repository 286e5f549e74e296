"""The children and citing events of an event, among the events of a room that have a place.

There is no table of edges: they are needed only if an event's verdict or state turns out to be
wrong, and are then read from the room's events, page by page, without the room's lock. Events
staged in the meantime are noted by the room (`Room.watched`) and added under the lock.
"""

from __future__ import annotations

from collections.abc import Collection

from federation.events.event import Event, load_event
from federation.events.ids import EventId
from homeserver import limits
from homeserver.engine.rooms.room import Room
from homeserver.engine.store import EngineStore


class Descendants:
    """The edges of one room, as far as they were read."""

    def __init__(self, store: EngineStore, room: Room) -> None:
        self._store = store
        self._room = room
        self._children: dict[EventId, set[EventId]] = {}
        self._citing: dict[EventId, set[EventId]] = {}
        self._is_read = False

    def covers(self, cited: Collection[EventId]) -> bool:
        """Returns whether it can answer, including for these as cited events."""
        return self._is_read and all(one in self._citing for one in cited)

    async def read(self, cited: Collection[EventId]) -> None:
        """Reads the room's events; afterwards it can answer for all as parents, and for `cited`."""
        room = self._room
        if room.watched is None:
            room.watched = []
        for one in cited:
            self._citing.setdefault(one, set())
        after = -1
        while True:
            rows = await self._store.events.with_place(
                room.row_id, after=after, limit=limits.RECHECK_SCAN_EVENTS
            )
            for row in rows:
                self._add(load_event(row.json, room.version, row.event_id))
            if len(rows) < limits.RECHECK_SCAN_EVENTS:
                break
            after = rows[-1].event_row_id
        self._is_read = True

    def catch_up(self) -> None:
        """Adds the events staged since; under the room's lock."""
        for event in self._room.watched or ():
            self._add(event)

    def _add(self, event: Event) -> None:
        for parent in event.prev_events:
            self._children.setdefault(parent, set()).add(event.event_id)
        for cited in event.auth_events:
            if cited in self._citing:
                self._citing[cited].add(event.event_id)

    def children(self, event_id: EventId) -> set[EventId]:
        """Returns the events that name it as their parent."""
        return self._children.get(event_id, set())

    def citing(self, event_id: EventId) -> set[EventId]:
        """Returns the events that cite it as their authorisation, if it was among `cited`."""
        return self._citing.get(event_id, set())
