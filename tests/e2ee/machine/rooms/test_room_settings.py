"""Pinned settings of rooms: what is taken, what never loosens."""

import pytest

from e2ee.limits import ROTATION_MESSAGES_MAX, ROTATION_MS_MAX, ROTATION_MS_MIN
from e2ee.machine.alarms import Alarms
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import MEGOLM
from e2ee.machine.rooms.room_settings import RoomBook
from tests.e2ee.record_store import RecordStore

ROOM = "!r:hs.test"


@pytest.fixture
def book() -> RoomBook:
    """Returns the settings before any room is seen."""
    return RoomBook(PendingChanges(RecordStore()), Alarms())


@pytest.mark.parametrize("content", [None, 5, [], {}, {"algorithm": None}, {"algorithm": 5}])
def test_what_names_no_algorithm_encrypts_nothing(book: RoomBook, content: object) -> None:
    """And doesn't decrypt what is encrypted."""
    book.see_encryption(ROOM, content)
    assert not book.of(ROOM).is_encrypted
    book.see_encryption(ROOM, {"algorithm": MEGOLM})
    book.see_encryption(ROOM, content)
    assert book.of(ROOM).is_encrypted
    assert book.of(ROOM).is_supported


def test_an_unknown_algorithm_may_be_replaced_by_megolm_but_not_back(book: RoomBook) -> None:
    """It counts as encrypted meanwhile."""
    book.see_encryption(ROOM, {"algorithm": "x.other"})
    assert book.of(ROOM).is_encrypted
    assert not book.of(ROOM).is_supported
    book.see_encryption(ROOM, {"algorithm": MEGOLM})
    assert book.of(ROOM).is_supported
    book.see_encryption(ROOM, {"algorithm": "x.other"})
    assert book.of(ROOM).is_supported


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        (ROTATION_MESSAGES_MAX, ROTATION_MESSAGES_MAX),
        (ROTATION_MESSAGES_MAX + 1, ROTATION_MESSAGES_MAX),
        (ROTATION_MESSAGES_MAX - 1, ROTATION_MESSAGES_MAX - 1),
        (1, 1),
        (0, 1),
        (True, ROTATION_MESSAGES_MAX),
        ("5", ROTATION_MESSAGES_MAX),
    ],
)
def test_rotation_by_messages_is_between_one_and_a_hundred(
    book: RoomBook, messages: object, kept: int
) -> None:
    """On both sides of both limits."""
    book.see_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_msgs": messages})
    assert book.of(ROOM).rotation_messages == kept


@pytest.mark.parametrize(
    ("period_ms", "kept"),
    [
        (ROTATION_MS_MAX, ROTATION_MS_MAX),
        (ROTATION_MS_MAX + 1, ROTATION_MS_MAX),
        (ROTATION_MS_MIN, ROTATION_MS_MIN),
        (ROTATION_MS_MIN - 1, ROTATION_MS_MIN),
        (None, ROTATION_MS_MAX),
    ],
)
def test_rotation_by_time_is_between_a_minute_and_a_week(
    book: RoomBook, period_ms: object, kept: int
) -> None:
    """On both sides of both limits."""
    book.see_encryption(ROOM, {"algorithm": MEGOLM, "rotation_period_ms": period_ms})
    assert book.of(ROOM).rotation_ms == kept


@pytest.mark.parametrize(
    ("visibility", "shares", "invited"),
    [
        ("world_readable", True, True),
        ("shared", True, False),
        ("invited", False, True),
        ("joined", False, False),
        ("nonsense", True, False),
        (None, True, False),
        ([], True, False),
    ],
)
def test_history_visibility_says_who_may_have_keys(
    book: RoomBook, visibility: object, shares: bool, invited: bool
) -> None:
    """A value not understood counts as `shared`."""
    book.see_history_visibility(ROOM, visibility)
    assert book.of(ROOM).shares_history is shares
    assert book.of(ROOM).invited_may_read is invited
