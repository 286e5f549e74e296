"""The store: sealed, bound to its key and place, one writer, and whole after a crash."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from e2ee.crypto.sealed import SealingKey, Unsealable
from e2ee.machine.changes import Changes
from e2ee.store import Store, StoreInUse, StoreUnreadable

KEY = SealingKey(bytes(range(32)))


def test_records_come_back_after_reopening(tmp_path: Path) -> None:
    """Written, changed, deleted."""
    path = tmp_path / "store"
    store = Store.open(path, KEY)
    store.apply(Changes({("kind", "a"): b"1", ("kind", "b"): b"2", ("other", "a"): b"3"}))
    store.apply(Changes({("kind", "a"): b"4", ("kind", "b"): None}))
    store.close()
    store = Store.open(path, KEY)
    assert store.get("kind", "a") == b"4"
    assert store.get("kind", "b") is None
    assert dict(store.items("kind")) == {"a": b"4"}
    assert dict(store.items("other")) == {"a": b"3"}
    store.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_readable_is_in_the_files(tmp_path: Path) -> None:
    """Neither values nor names; also after deletion, in the file and its log."""
    path = tmp_path / "store"
    store = Store.open(path, KEY)
    store.apply(Changes({("visible-kind", "CANARY-name"): b"CANARY-value"}))
    store.apply(Changes({("visible-kind", "CANARY-name"): None, ("visible-kind", "x"): b"y"}))
    store.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"visible-kind" in kept
    assert b"CANARY" not in kept


def test_what_is_deleted_is_overwritten(tmp_path: Path) -> None:
    """Not merely unlinked from its table; and each commit waits for the disk."""
    store = Store.open(tmp_path / "store", KEY)
    settings = {"secure_delete": 1, "synchronous": 2, "journal_mode": "wal"}
    for name, value in settings.items():
        assert store._database.execute(f"PRAGMA {name}").fetchone() == (value,)
    store.close()


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    """It is refused at once, and nothing is overwritten."""
    path = tmp_path / "store"
    store = Store.open(path, KEY)
    store.apply(Changes({("kind", "a"): b"1"}))
    store.close()
    with pytest.raises(StoreUnreadable):
        Store.open(path, SealingKey(bytes(32)))
    store = Store.open(path, KEY)
    assert store.get("kind", "a") == b"1"
    store.close()


def test_a_file_that_isnt_a_store_is_refused(tmp_path: Path) -> None:
    """And left as it is."""
    path = tmp_path / "store"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnreadable):
        Store.open(path, KEY)
    assert path.read_bytes() == b"not a database" * 100


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Two copies of a ratchet would repeat keys."""
    path = tmp_path / "store"
    store = Store.open(path, KEY)
    with pytest.raises(StoreInUse):
        Store.open(path, KEY)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from e2ee.crypto.sealed import SealingKey\n"
        "from e2ee.store import Store, StoreInUse\n"
        "try:\n"
        "    Store.open(Path(sys.argv[1]), SealingKey(bytes(range(32))))\n"
        "except StoreInUse:\n"
        "    sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == 7
    store.close()
    Store.open(path, KEY).close()


def test_a_moved_value_doesnt_open(tmp_path: Path) -> None:
    """Someone with the file swaps two records, or copies an old one into another place."""
    path = tmp_path / "store"
    store = Store.open(path, KEY)
    store.apply(Changes({("kind", "a"): b"1", ("kind", "b"): b"2"}))
    store.close()
    database = sqlite3.connect(path)
    rows = database.execute("SELECT name, sealed FROM records WHERE kind = 'kind'").fetchall()
    (name, _), (_, other) = rows
    database.execute("UPDATE records SET sealed = ? WHERE name = ?", (other, name))
    database.commit()
    database.close()
    store = Store.open(path, KEY)
    with pytest.raises(Unsealable):
        dict(store.items("kind"))
    store.close()


def test_a_change_set_is_all_or_nothing(tmp_path: Path) -> None:
    """A failure in its middle leaves nothing of it."""
    store = Store.open(tmp_path / "store", KEY)
    broken: dict[tuple[str, str], bytes | None] = {("kind", "a"): b"1", ("kind", "\ud800"): b"2"}
    with pytest.raises(UnicodeEncodeError):
        store.apply(Changes(broken))
    assert store.get("kind", "a") is None
    store.apply(Changes({("kind", "a"): b"3"}))
    assert store.get("kind", "a") == b"3"
    store.close()


def test_what_was_applied_survives_a_killed_process(tmp_path: Path) -> None:
    """The process dies without closing; each finished change set is there."""
    path = tmp_path / "store"
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from e2ee.crypto.sealed import SealingKey\n"
        "from e2ee.machine.changes import Changes\n"
        "from e2ee.store import Store\n"
        "store = Store.open(Path(sys.argv[1]), SealingKey(bytes(range(32))))\n"
        "for n in range(5):\n"
        "    store.apply(Changes({('kind', str(n)): b'x', ('last', ''): str(n).encode()}))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    store = Store.open(path, KEY)
    assert store.get("last", "") == b"4"
    assert len(dict(store.items("kind"))) == 5
    store.close()
