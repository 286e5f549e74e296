"""The client's store: one SQLite file, every value sealed, names hidden, one writer.

Rules:
1. A change set is one transaction: after a crash all of it is there or none (WAL, synchronous
   FULL).
2. Values are sealed with a key that isn't in the file; record names are keyed hashes. What stays
   visible: how many records of which kind, and their sizes.
3. A sealed value is bound to its kind and name, so it can't be moved to another place.
4. One process at a time: a second one is refused, since two copies of a ratchet repeat keys.
5. Deleted records are overwritten (`secure_delete`).
"""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from e2ee.crypto.sealed import SealingKey, Unsealable
from e2ee.machine.changes import Changes

_SCHEMA_VERSION: Final = 1
_CHECK: Final = ("check", "key")
_NAME_LENGTH_BYTES: Final = 4


class StoreInUse(Exception):
    """Another process has the store open."""


class StoreUnreadable(Exception):
    """The file isn't a store, is damaged, or the key is wrong."""


class Store:
    """Sealed records by (kind, key); implements `machine.changes.Lookup`."""

    def __init__(self, database: sqlite3.Connection, key: SealingKey) -> None:
        self._database = database
        self._key = key
        self._values = key.derive("values")
        self._names = key.derive("names")

    @classmethod
    def open(cls, path: Path, key: SealingKey) -> Self:
        """Opens or makes the store (mode 0600); raises `StoreInUse` or `StoreUnreadable`."""
        if not path.exists():
            # Never for a file that is there: closing it here would drop SQLite's locks on it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        database = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            _prepare(database)
            store = cls(database, key)
            store._check_key()
        except (sqlite3.Error, Unsealable) as error:
            database.close()
            if "locked" in str(error):
                raise StoreInUse(f"{path} is in use by another program") from error
            raise StoreUnreadable(f"{path} can't be opened with this key") from error
        return store

    def get(self, kind: str, key: str) -> bytes | None:
        """Returns the record, or None; raises `Unsealable` if it was tampered with."""
        name = self._names.name(key)
        row = self._database.execute(
            "SELECT sealed FROM records WHERE kind = ? AND name = ?", (kind, name)
        ).fetchone()
        return None if row is None else self._open(kind, name, row[0])[1]

    def items(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Yields all records of a kind."""
        rows = self._database.execute(
            "SELECT name, sealed FROM records WHERE kind = ?", (kind,)
        ).fetchall()
        for name, sealed in rows:
            yield self._open(kind, name, sealed)

    def apply(self, changes: Changes) -> None:
        """Writes all changes in one durable transaction, or raises and writes none."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for (kind, key), value in changes.records.items():
                self._write(kind, key, value)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Releases the file."""
        self._database.close()

    def _write(self, kind: str, key: str, value: bytes | None) -> None:
        name = self._names.name(key)
        if value is None:
            self._database.execute("DELETE FROM records WHERE kind = ? AND name = ?", (kind, name))
            return
        encoded = key.encode()
        plaintext = len(encoded).to_bytes(_NAME_LENGTH_BYTES, "big") + encoded + value
        sealed = self._values.seal(plaintext, _context(kind, name))
        self._database.execute(
            "INSERT INTO records VALUES (?, ?, ?)"
            " ON CONFLICT (kind, name) DO UPDATE SET sealed = excluded.sealed",
            (kind, name, sealed),
        )

    def _open(self, kind: str, name: bytes, sealed: bytes) -> tuple[str, bytes]:
        plaintext = self._values.open(sealed, _context(kind, name))
        start = _NAME_LENGTH_BYTES
        end = start + int.from_bytes(plaintext[:start], "big")
        return plaintext[start:end].decode(), plaintext[end:]

    def _check_key(self) -> None:
        """Opens the record that every store has; a wrong key finds none or can't open it."""
        kind, key = _CHECK
        if self.get(kind, key) is None:
            if self._database.execute("SELECT 1 FROM records LIMIT 1").fetchone():
                raise Unsealable("another key")
            self.apply(Changes({_CHECK: b"freehold"}))


def _context(kind: str, name: bytes) -> bytes:
    return kind.encode() + b"\0" + name


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA secure_delete = ON")
    database.execute("BEGIN EXCLUSIVE")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, _SCHEMA_VERSION):
        raise sqlite3.DatabaseError("made by a newer version")
    database.execute(
        "CREATE TABLE IF NOT EXISTS records"
        " (kind TEXT NOT NULL, name BLOB NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (kind, name))"
        " WITHOUT ROWID"
    )
    database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    database.execute("COMMIT")
