"""The order in which waiting events are tried: by due time, separately for each origin.

Rules:
1. The events that one server sent of one room form a lane. Lanes don't wait for each other, so a
   server that sends undecidable events holds up its own alone.
2. The event of a lane that has been due for longest is next; a deferred one is due later.

Times are arguments, in seconds.
"""

from __future__ import annotations

import heapq
from itertools import count

from federation.events.ids import EventId
from federation.ports import Clock
from federation.transport.wakeup import Wakeup


class Lane:
    """The events of one origin in one room; `wakeup` wakes the task that works on them."""

    def __init__(self, clock: Clock) -> None:
        self.wakeup = Wakeup(clock)
        self._due: dict[EventId, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, EventId]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._due

    def add(self, event_id: EventId, due_s: float) -> None:
        """Adds an event, or changes when it is due."""
        number = next(self._numbers)
        self._due[event_id] = (due_s, number)
        heapq.heappush(self._heap, (due_s, number, event_id))

    def drop(self, event_id: EventId) -> None:
        """Takes an event out, if it is in the lane."""
        self._due.pop(event_id, None)

    def hurry(self, now_s: float) -> None:
        """Makes all events due, in the order in which they would have been."""
        ordered = sorted(self._due.items(), key=lambda item: item[1])
        self._heap.clear()
        for event_id, (due_s, _) in ordered:
            self.add(event_id, min(due_s, now_s))

    def first(self) -> tuple[float, EventId] | None:
        """Returns the next event and when it is due; None where there is none."""
        while self._heap:
            due_s, number, event_id = self._heap[0]
            if self._due.get(event_id) == (due_s, number):
                return due_s, event_id
            heapq.heappop(self._heap)
        return None
