"""Records and their changes: saved before sent."""

import msgspec
import pytest

from e2ee.machine import changes
from e2ee.machine.changes import Changes, PendingChanges, Unsaved
from tests.e2ee.record_shelf import RecordShelf


class Note(msgspec.Struct, frozen=True):
    """A record."""

    text: str


def test_changes_are_seen_before_they_are_saved_and_after() -> None:
    """Put, remove, all of a kind."""
    shelf = RecordShelf()
    ledger = PendingChanges(shelf)
    assert ledger.load("note", "a", Note) is None
    ledger.put("note", "a", Note("1"))
    ledger.put("note", "b", Note("2"))
    ledger.put("other", "a", Note("3"))
    assert ledger.load("note", "a", Note) == Note("1")
    ledger.save(shelf.apply)
    ledger.remove("note", "a")
    ledger.put("note", "c", Note("4"))
    assert ledger.load("note", "a", Note) is None
    assert ledger.all("note", Note) == {"b": Note("2"), "c": Note("4")}
    ledger.save(shelf.apply)
    assert PendingChanges(shelf).all("note", Note) == {"b": Note("2"), "c": Note("4")}


def test_a_value_is_released_only_when_all_is_saved() -> None:
    """And doesn't show before."""
    ledger = PendingChanges(RecordShelf())
    ledger.put("note", "a", Note("1"))
    unsaved = Unsaved("CIPHERTEXT")
    assert "CIPHERTEXT" not in repr(unsaved)
    with pytest.raises(AssertionError, match="saved"):
        ledger.release(unsaved)
    ledger.save(lambda changes: None)
    assert ledger.release(unsaved) == "CIPHERTEXT"


def test_a_failed_write_keeps_the_changes() -> None:
    """They are written with the next."""
    ledger = PendingChanges(RecordShelf())
    ledger.put("note", "a", Note("1"))

    def fail(changes: Changes) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        ledger.save(fail)
    assert not ledger.is_saved
    written: list[Changes] = []
    ledger.save(written.append)
    assert list(written[0].records) == [("note", "a")]
    ledger.save(written.append)
    assert len(written) == 1  # nothing to write, nothing written


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest records are read again from the store, or from what waits to be saved."""
    monkeypatch.setattr(changes, "RECORDS_CACHED_MAX", 3)
    shelf = RecordShelf()
    ledger = PendingChanges(shelf)
    for number in range(10):
        ledger.put("note", str(number), Note(str(number)))
    assert len(ledger._cache) == 3
    assert ledger.load("note", "0", Note) == Note("0")
    ledger.save(shelf.apply)
    assert ledger.load("note", "1", Note) == Note("1")
