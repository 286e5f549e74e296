"""Pending changes, and the rule that they are saved before anything derived from them is sent.

Rules:
1. All state is records: (kind, key) -> a frozen struct. A `PendingChanges` reads them through a
   `Lookup` and collects what changed.
2. `PendingChanges.save` hands all changes to a writer, which must keep them in one transaction or
   raise; only then are they forgotten here.
3. The output of a ratchet is `Unsaved` and can't be read until nothing is left to save: a ratchet
   that is rolled back after a crash would encrypt twice with one key.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from e2ee.limits import RECORDS_CACHED_MAX

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")
RecordKey = tuple[str, str]


class Lookup(Protocol):
    """Read access to saved records."""

    def get(self, kind: str, key: str) -> bytes | None:
        """Returns the record's bytes, or None."""
        ...

    def items(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Returns all records of a kind: (key, bytes)."""
        ...


@dataclass(frozen=True, slots=True)
class Changes:
    """Records to write (bytes) or to delete (None), in one transaction."""

    records: Mapping[RecordKey, bytes | None]


@dataclass(frozen=True, slots=True)
class Unsaved(Generic[T]):
    """A value that may not leave before the state behind it is saved; see
    `PendingChanges.release`."""

    _value: T = field(repr=False)


class PendingChanges:
    """Records with their pending changes."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._pending: dict[RecordKey, bytes | None] = {}
        self._cache: dict[RecordKey, Any] = {}

    def load(self, kind: str, key: str, of: type[S]) -> S | None:
        """Returns the record, pending changes included; None if there is none."""
        where = (kind, key)
        if where in self._cache:
            found: S | None = self._cache[where]
            return found
        raw = self._pending[where] if where in self._pending else self._lookup.get(kind, key)
        value = None if raw is None else msgspec.json.decode(raw, type=of)
        self._remember(where, value)
        return value

    def put(self, kind: str, key: str, value: msgspec.Struct) -> None:
        """Writes a record (kept here until `save`)."""
        self._pending[kind, key] = msgspec.json.encode(value)
        self._remember((kind, key), value)

    def remove(self, kind: str, key: str) -> None:
        """Deletes a record (kept here until `save`)."""
        self._pending[kind, key] = None
        self._remember((kind, key), None)

    def all(self, kind: str, of: type[S]) -> dict[str, S]:
        """Returns all records of a kind, pending changes included. For start-up."""
        found = {key: msgspec.json.decode(raw, type=of) for key, raw in self._lookup.items(kind)}
        for (changed, key), raw in self._pending.items():
            if changed != kind:
                continue
            if raw is None:
                found.pop(key, None)
            else:
                found[key] = msgspec.json.decode(raw, type=of)
        return found

    @property
    def is_saved(self) -> bool:
        """Whether nothing waits to be saved."""
        return not self._pending

    def save(self, writer: Callable[[Changes], None]) -> None:
        """Hands all pending changes to `writer`; they stay pending if it raises."""
        if self._pending:
            writer(Changes(dict(self._pending)))
            self._pending.clear()

    def release(self, unsaved: Unsaved[T]) -> T:
        """Returns the value, now that its state is saved; asserts that it is."""
        assert self.is_saved, "state must be saved before what is derived from it is sent"
        return unsaved._value

    def _remember(self, where: RecordKey, value: msgspec.Struct | None) -> None:
        self._cache[where] = value
        if len(self._cache) > RECORDS_CACHED_MAX:
            del self._cache[next(iter(self._cache))]
