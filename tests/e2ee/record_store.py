"""Records in a dictionary, for machines without a store."""

from collections.abc import Iterator

from e2ee.machine.changes import Changes


class RecordStore:
    """Implements `e2ee.machine.changes.Lookup`, and takes changes."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], bytes] = {}

    def get(self, kind: str, key: str) -> bytes | None:
        """Returns the record's bytes, or None."""
        return self.records.get((kind, key))

    def items(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Yields all records of a kind."""
        yield from [(key, raw) for (k, key), raw in self.records.items() if k == kind]

    def apply(self, changes: Changes) -> None:
        """Takes changes."""
        for where, raw in changes.records.items():
            if raw is None:
                self.records.pop(where, None)
            else:
                self.records[where] = raw
