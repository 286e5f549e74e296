"""Records and their changes: saved before sent."""

import msgspec
import pytest

from e2ee.machine import changes
from e2ee.machine.changes import Changes, PendingChanges, Unsaved
from tests.e2ee.record_store import RecordStore


class Note(msgspec.Struct, frozen=True):
    """A record."""

    text: str


def test_changes_are_seen_before_they_are_saved_and_after() -> None:
    """Put, remove, all of a kind."""
    client_rooms = RecordStore()
    pending_changes = PendingChanges(client_rooms)
    assert pending_changes.load("note", "a", Note) is None
    pending_changes.put("note", "a", Note("1"))
    pending_changes.put("note", "b", Note("2"))
    pending_changes.put("other", "a", Note("3"))
    assert pending_changes.load("note", "a", Note) == Note("1")
    pending_changes.save(client_rooms.apply)
    pending_changes.remove("note", "a")
    pending_changes.put("note", "c", Note("4"))
    assert pending_changes.load("note", "a", Note) is None
    assert pending_changes.all("note", Note) == {"b": Note("2"), "c": Note("4")}
    pending_changes.save(client_rooms.apply)
    assert PendingChanges(client_rooms).all("note", Note) == {"b": Note("2"), "c": Note("4")}


def test_a_value_is_released_only_when_all_is_saved() -> None:
    """And doesn't show before."""
    pending_changes = PendingChanges(RecordStore())
    pending_changes.put("note", "a", Note("1"))
    unsaved = Unsaved("CIPHERTEXT")
    assert "CIPHERTEXT" not in repr(unsaved)
    with pytest.raises(AssertionError, match="saved"):
        pending_changes.release(unsaved)
    pending_changes.save(lambda changes: None)
    assert pending_changes.release(unsaved) == "CIPHERTEXT"


def test_a_failed_write_keeps_the_changes() -> None:
    """They are written with the next."""
    pending_changes = PendingChanges(RecordStore())
    pending_changes.put("note", "a", Note("1"))

    def fail(changes: Changes) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        pending_changes.save(fail)
    assert not pending_changes.is_saved
    written: list[Changes] = []
    pending_changes.save(written.append)
    assert list(written[0].records) == [("note", "a")]
    pending_changes.save(written.append)
    assert len(written) == 1  # nothing to write, nothing written


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest records are read again from the store, or from what waits to be saved."""
    monkeypatch.setattr(changes, "RECORDS_CACHED_MAX", 3)
    client_rooms = RecordStore()
    pending_changes = PendingChanges(client_rooms)
    for number in range(10):
        pending_changes.put("note", str(number), Note(str(number)))
    assert len(pending_changes._cache) == 3
    assert pending_changes.load("note", "0", Note) == Note("0")
    pending_changes.save(client_rooms.apply)
    assert pending_changes.load("note", "1", Note) == Note("1")
