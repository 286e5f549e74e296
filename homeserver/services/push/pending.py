"""Events that aren't in the stored counts yet, in memory.

Rules:
1. An event is stored once, whatever the number of users. Once a room has many, they are added to
   the counts of all its members at once (`PendingRoom.sum_for`); until then a reader adds them.
2. Members who are named in no event share one count. A user who has read something is counted up
   to a place of their own, and only the events behind it are added for them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final

from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.rules.push.unread import NEVER, WHOLE_ROOM, EventLevels, ThreadCounts, tally
from homeserver.storage.push.unread import PendingRow, RoomSum

_PLACE: Final = attrgetter("live_index")


class PendingRoom:
    """The events of a room beyond its sum, in order."""

    def __init__(self) -> None:
        self.events: list[EventLevels] = []
        self.counted_to: dict[UserId, int] = {}
        self._named: set[UserId] = set()
        self._threads: set[str] = set()
        self._usual: ThreadCounts | None = None

    @property
    def last(self) -> int:
        """Returns the place of the newest event."""
        return self.events[-1].live_index if self.events else NEVER

    def add(self, event: EventLevels) -> None:
        """Adds the newest event."""
        self.events.append(event)
        self._named.update(event.others)
        self._threads.add(event.thread)
        self._usual = None

    def remove(self, event_id: EventId) -> bool:
        """Removes a redacted event; False if it isn't here."""
        left = [one for one in self.events if one.event_id != event_id]
        is_here = len(left) < len(self.events)
        self.events, self._usual = left, None
        return is_here

    def is_read(self, thread: str, place: int) -> bool:
        """Returns whether a user who has read a thread ("" for all) up to a place has read all."""
        return place >= self.last and (thread == WHOLE_ROOM or self._threads <= {thread})

    def after(self, place: int) -> Sequence[EventLevels]:
        """Returns the events behind a place."""
        if self.last <= place:
            return ()
        return self.events[bisect_right(self.events, place, key=_PLACE) :]

    def counts(self, user_id: UserId) -> ThreadCounts:
        """Returns what is to be added to a member's stored counts."""
        after = self.counted_to.get(user_id, NEVER)
        if after != NEVER:
            return tally(self.after(after), user_id, after=after)
        if user_id in self._named:
            return tally(self.events, user_id, after=after)
        if self._usual is None:
            self._usual = tally(self.events, None, after=NEVER)
        return self._usual

    def sum_for(self, room_id: RoomId, members: Iterable[UserId]) -> RoomSum:
        """Returns the sum of all its events for the members."""
        added = [(user_id, counts) for user_id in members if (counts := self.counts(user_id))]
        return RoomSum(room_id, self.last, added)


class PendingEvents:
    """The events of all rooms beyond their sums, the room with the oldest first."""

    def __init__(self) -> None:
        self._rooms: dict[RoomId, PendingRoom] = {}
        self.total = 0

    def load(self, rows: Sequence[PendingRow]) -> None:
        """Takes over what is stored."""
        for row in rows:
            for event in row.events:
                self.add(row.room_id, event)
            self._rooms[row.room_id].counted_to.update(row.counted_to)

    def room(self, room_id: RoomId) -> PendingRoom | None:
        """Returns a room's events; None if there are none."""
        return self._rooms.get(room_id)

    def add(self, room_id: RoomId, event: EventLevels) -> bool:
        """Adds an event; returns whether it is the first of its room."""
        room = self._rooms.get(room_id)
        is_first = room is None
        if room is None:
            room = self._rooms[room_id] = PendingRoom()
        room.add(event)
        self.total += 1
        return is_first

    def remove(self, room_id: RoomId, event_id: EventId) -> None:
        """Removes a redacted event."""
        room = self._rooms.get(room_id)
        if room is not None and room.remove(event_id):
            self.total -= 1

    def pop(self, room_id: RoomId) -> None:
        """Drops the events of a room that was summed."""
        room = self._rooms.pop(room_id, None)
        if room is not None:
            self.total -= len(room.events)

    def due(self) -> Iterator[RoomId]:
        """Yields the rooms that are to be summed now."""
        left = self.total
        for room_id, room in list(self._rooms.items()):
            is_over = left > limits.PUSH_EVENTS_UNSUMMED_IN_ALL
            if room.events and (is_over or len(room.events) >= limits.PUSH_EVENTS_UNSUMMED):
                left -= len(room.events)
                yield room_id
