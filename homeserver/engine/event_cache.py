"""Events in memory: parsed, and as JSON for clients. Bounded by bytes; the oldest used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteBoundedCache(Generic[V]):
    """Least recently used values are dropped once the sum of their sizes passes a bound."""

    def __init__(self, bytes_max: int, size_of: Callable[[V], int]) -> None:
        self._values: OrderedDict[str, V] = OrderedDict()
        self._bytes_max = bytes_max
        self._size_of = size_of
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> V | None:
        """The value, which counts as used now."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: str, value: V) -> None:
        """Keeps a value, in place of an older one."""
        self.drop(key)
        self._values[key] = value
        self.bytes += self._size_of(value)
        while self.bytes > self._bytes_max and len(self._values) > 1:
            _, old = self._values.popitem(last=False)
            self.bytes -= self._size_of(old)

    def drop(self, key: str) -> None:
        """Forgets a value."""
        old = self._values.pop(key, None)
        if old is not None:
            self.bytes -= self._size_of(old)

    def split(self, keys: Collection[str]) -> tuple[dict[str, V], list[str]]:
        """What is here of `keys`, and those that aren't."""
        found: dict[str, V] = {}
        missing: list[str] = []
        for key in keys:
            value = self.get(key)
            if value is None:
                missing.append(key)
            else:
                found[key] = value
        return found, missing
