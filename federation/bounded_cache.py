"""A mapping that keeps a bounded number of entries: the oldest goes first.

An entry is as old as the last `put` of it; reading doesn't make it younger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """At most `entries_max` entries."""

    def __init__(self, entries_max: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._entries_max = entries_max

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """Returns the value of a key, or None."""
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        """Keeps a value as the youngest entry, in place of an older one of the key."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        self._evict()

    def setdefault(self, key: K, value: V) -> V:
        """Returns the value of a key; if there is none, keeps `value` as the youngest entry."""
        found = self._entries.setdefault(key, value)
        self._evict()
        return found

    def pop(self, key: K) -> V | None:
        """Drops an entry and returns its value, or None where there is none."""
        return self._entries.pop(key, None)

    def clear(self) -> None:
        """Drops all entries."""
        self._entries.clear()

    def _evict(self) -> None:
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
