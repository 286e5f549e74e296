"""Mappings that keep a bounded number of entries, or of bytes: the oldest entries go first.

Rules:
1. In `BoundedCache` and `ExpiringCache` an entry is as old as the last `put` of it; reading doesn't
   make it younger.
2. In `ByteBoundedCache` it is as old as its last use. The youngest stays, whatever its size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, ItemsView, Iterator
from itertools import takewhile
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """At most `entries_max` entries. `on_evict` is called with each that has to go."""

    def __init__(self, entries_max: int, *, on_evict: Callable[[K, V], None] | None = None) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._entries_max = entries_max
        self._on_evict = on_evict

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def items(self) -> ItemsView[K, V]:
        """Returns the keys and values, the oldest first."""
        return self._entries.items()

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
            evicted = self._entries.popitem(last=False)
            if self._on_evict is not None:
                self._on_evict(*evicted)


class ExpiringCache(Generic[K, V]):
    """At most `entries_max` entries, each for `age_s_max` seconds by the clock `now_s`."""

    def __init__(self, entries_max: int, age_s_max: float, now_s: Callable[[], float]) -> None:
        self._entries: BoundedCache[K, tuple[V, float]] = BoundedCache(entries_max)
        self._age_s_max = age_s_max
        self._now_s = now_s

    def __len__(self) -> int:
        self._expire()
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Returns the value of a key, or None."""
        self._expire()
        found = self._entries.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: V) -> None:
        """Keeps a value as the youngest entry, in place of an older one of the key."""
        self._expire()
        self._entries.put(key, (value, self._now_s()))

    def pop(self, key: K) -> V | None:
        """Drops an entry and returns its value, or None where there is none."""
        self._expire()
        found = self._entries.pop(key)
        return None if found is None else found[0]

    def _expire(self) -> None:
        start_s = self._now_s() - self._age_s_max
        expired = takewhile(lambda entry: entry[1][1] < start_s, self._entries.items())
        for key, _ in list(expired):
            self._entries.pop(key)


class ByteBoundedCache(Generic[K, V]):
    """At most `bytes_max` bytes; `size_of` a value must not change as long as it is kept."""

    def __init__(self, bytes_max: int, size_of: Callable[[V], int]) -> None:
        self._values: OrderedDict[K, V] = OrderedDict()
        self._bytes_max = bytes_max
        self._size_of = size_of
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Returns the value, which counts as used now."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Adds a value, in place of an older one."""
        self.drop(key)
        self._values[key] = value
        self.bytes += self._size_of(value)
        while self.bytes > self._bytes_max and len(self._values) > 1:
            _, old = self._values.popitem(last=False)
            self.bytes -= self._size_of(old)

    def drop(self, key: K) -> None:
        """Drops a value."""
        old = self._values.pop(key, None)
        if old is not None:
            self.bytes -= self._size_of(old)

    def split(self, keys: Collection[K]) -> tuple[dict[K, V], list[K]]:
        """Returns the values of those `keys` that are here, and the other keys."""
        found: dict[K, V] = {}
        missing: list[K] = []
        for key in keys:
            value = self.get(key)
            if value is None:
                missing.append(key)
            else:
                found[key] = value
        return found, missing
