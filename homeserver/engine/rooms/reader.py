"""Reading a room's history: from the ring of its newest events, else from the database.

There are two orders (design, "What keeps it right", 5): log positions decide which events are new
to a sync, room order `(live_index, gap_index)` is the place of an event.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateChange
from homeserver.engine.rooms.moments import Moments
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.stored import key_of
from homeserver.engine.store import EngineStore
from homeserver.storage.timeline.events import StoredEventRow

Order = tuple[int, int]
BEGINNING: Order = (0, -(2**53))
END: Order = (2**53, 0)


class TimelinePart(msgspec.Struct, frozen=True):
    """Some events of a room, oldest first. `limited`: there are older ones in the requested range.
    `prev`: the place to page backwards from."""

    events: list[Placed]
    limited: bool
    prev: Order


def event_entry(placed: Placed) -> EventEntry:
    """Returns the entry of a placed timeline event."""
    assert isinstance(placed.entry, EventEntry), "timelines hold events"
    return placed.entry


class Reader:
    """Pages through rooms."""

    def __init__(self, store: EngineStore, rooms: Rooms) -> None:
        self._store = store
        self._rooms = rooms
        self.moments = Moments(store, rooms)

    async def newest(self, room: Room, *, after: int, up_to: int, limit: int) -> TimelinePart:
        """Returns the newest `limit` events with after < position <= up_to."""
        found = _from_ring(room, after, up_to, limit)
        if found is None:
            rows = await self._store.events.newest(
                room.row_id, after=after, up_to=up_to, limit=limit + 1
            )
            found = [self.placed(row, room) for row in reversed(rows)]
        limited = len(found) > limit
        events = found[len(found) - limit :] if limited else found
        prev = event_entry(events[0]).order if events else (room.view.live_index + 1, 0)
        return TimelinePart(events, limited, prev)

    def placed(self, row: StoredEventRow, room: Room) -> Placed:
        """Returns a stored event of a room, with its position."""
        position = row.position
        return Placed(-1 if position is None else position, self._rooms.loader.entry_of(row, room))

    async def page(
        self,
        room: Room,
        *,
        start: Order,
        backwards: bool,
        limit: int,
        stop: Order | None = None,
    ) -> list[Placed]:
        """Returns events from a place on, which is left out: newest first backwards, else oldest
        first; none at or past `stop`."""
        read = self._store.events.before if backwards else self._store.events.behind
        rows = await read(room.row_id, start, limit)
        found = []
        for row in rows:
            order = row.place
            if stop is not None and (order <= stop if backwards else order >= stop):
                break
            position = row.position
            if position is not None and position > room.view.position:
                break  # committed, but not published yet
            found.append(self.placed(row, room))
        return found

    async def order_at(self, room: Room, position: int) -> Order:
        """Returns the place of the newest event at or before a log position; the beginning if there
        is none.
        """
        if position >= room.view.position:
            return (room.view.live_index, 0)
        if position > room.ring_start:
            newest: Order | None = None
            for placed in reversed(room.ring):
                if placed.position <= position:
                    newest = event_entry(placed).order
                    break
            if newest is not None:
                return newest
        order = await self._store.events.order_at(room.row_id, position)
        return order or BEGINNING

    async def place(self, room: Room, event_id: EventId) -> Placed | None:
        """Returns a released event of the room by its ID."""
        return (await self.places(room, [event_id])).get(event_id)

    async def places(self, room: Room, event_ids: Collection[EventId]) -> dict[EventId, Placed]:
        """Returns those of the events that are in the room and have a place in its order."""
        wanted = set(event_ids)
        found: dict[EventId, Placed] = {}
        for placed in reversed(room.ring):
            if len(found) == len(wanted):
                return found
            event_id = event_entry(placed).event.event_id
            if event_id in wanted:
                found[event_id] = placed
        for row in await self._store.events.by_id(wanted - found.keys()):
            if row.room_row_id == room.row_id and row.live_index is not None:
                found[row.event_id] = self.placed(row, room)
        return found

    async def changes(self, room: Room, *, after: int, up_to: int) -> list[tuple[int, StateChange]]:
        """Returns changes of current state with after < position <= up_to, in order."""
        if after >= max(room.ring_start, room.changes_start):
            return [
                (placed.position, change)
                for placed in room.ring
                if after < placed.position <= up_to
                for change in event_entry(placed).changes
            ]
        rows = await self._store.state_changes.between(room.row_id, after=after, up_to=up_to)
        return [
            (
                row.position,
                StateChange(key_of(row), row.event_id, row.membership, row.former),
            )
            for row in rows
        ]

    async def gaps(
        self, room: Room, order: Order, limit: int = limits.PAGE_EVENTS_DEFAULT
    ) -> list[EventId]:
        """Returns missing events that come before a place, the nearest first."""
        rows = await self._store.gaps.before(room.row_id, order, limit)
        return [row.missing for row in rows]

    async def gap_places(
        self, room: Room, order: Order, limit: int, *, backwards: bool = True
    ) -> list[Order]:
        """Returns the places at or before a place (or at or behind it) below which events are
        missing, the nearest first."""
        read = self._store.gaps.before if backwards else self._store.gaps.behind
        rows = await read(room.row_id, order, limit)
        return list(dict.fromkeys(row.order for row in rows))

    async def at_places(self, room: Room, orders: Sequence[Order]) -> list[Event]:
        """Returns the events at some places."""
        found = []
        for live_index, gap_index in orders:
            for row in await self._store.events.behind(room.row_id, (live_index, gap_index - 1), 1):
                if row.order == (live_index, gap_index):
                    found.append(event_entry(self.placed(row, room)).event)
        return found


def _from_ring(room: Room, after: int, up_to: int, limit: int) -> list[Placed] | None:
    """Returns the newest `limit` + 1 events in the range, oldest first; None if the ring doesn't
    reach back far enough.
    """
    if up_to >= room.view.position and after >= room.view.position:
        return []
    newest = []
    for placed in reversed(room.ring):
        if placed.position <= after:
            break
        if placed.position <= up_to:
            newest.append(placed)
            if len(newest) > limit:
                break
    else:
        if after < room.ring_start and room.ring_start > 0:
            return None
    newest.reverse()
    return newest
