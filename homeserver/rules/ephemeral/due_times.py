"""Times at which something is due, of many keys: the next one without a look at all of them.

A time that is put off costs nothing: the former one is passed over when it comes. So each key has
one entry in the queue, and another one only for each time that is sooner than those before.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=str)


class DueTimes(Generic[Key]):
    """The time of each key, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._due_s: dict[Key, float] = {}
        self._queued_s: dict[Key, float] = {}
        self._queue: list[tuple[float, Key]] = []

    def __len__(self) -> int:
        return len(self._due_s)

    def set(self, key: Key, due_s: float | None) -> None:
        """Sets the time of a key, or ends it (None)."""
        if due_s is None:
            self._due_s.pop(key, None)
            return
        self._due_s[key] = due_s
        if due_s < self._queued_s.get(key, float("inf")):
            self._queued_s[key] = due_s
            heapq.heappush(self._queue, (due_s, key))

    def take(self, now_s: float) -> Iterator[Key]:
        """Takes the keys whose time has come, soonest first."""
        while self._queue and self._queue[0][0] <= now_s:
            time_s, key = heapq.heappop(self._queue)
            if self._queued_s.get(key) != time_s:
                continue  # there was a sooner one
            del self._queued_s[key]
            due_s = self._due_s.pop(key, None)
            if due_s is None:
                continue
            if due_s <= now_s:
                yield key
            else:
                self.set(key, due_s)

    def next_s(self) -> float | None:
        """Returns a time before which nothing is due, None if nothing will be."""
        return self._queue[0][0] if self._queue and self._due_s else None
