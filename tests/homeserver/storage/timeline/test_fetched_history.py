"""Outliers in bulk, in the database."""

from collections.abc import Callable, Sequence

import pytest

from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.timeline import events
from homeserver.storage.timeline.events import EventRow, EventTable
from homeserver.storage.timeline.fetched_history import FetchedHistory
from tests.homeserver.storage.event_rows import outlier


def making(*made: tuple[int, str]) -> Callable[[int], Sequence[EventRow]]:
    """Rows for whatever number the room has."""
    return lambda room_row_id: [outlier(row_id, event_id, room_row_id) for row_id, event_id in made]


async def stored(database: Database) -> dict[str, int]:
    """Events and their numbers."""
    rows = await EventTable(database).by_id([f"${letter}" for letter in "abcdef"])
    return {row.event_id: row.event_row_id for row in rows}


async def test_outliers_of_a_new_room_are_copied_in_pieces(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_insert(*_: object) -> None:
        raise AssertionError("a new room's events are copied")

    monkeypatch.setattr(limits, "ROWS_WRITTEN_AT_ONCE", 2)
    monkeypatch.setattr(events, "insert_outliers", no_insert)
    given = making((1, "$a"), (2, "$b"), (3, "$c"))
    assert await FetchedHistory(database).store_outliers((9, "!r", "11"), given) == 9
    assert await stored(database) == {"$a": 1, "$b": 2, "$c": 3}
    (row,) = await EventTable(database).by_id(["$c"])
    assert (row.type, row.state_key, row.outlier, row.json) == ("m.x", "k", True, b"3")
    assert (row.room_id, row.version) == ("!r", "11")


async def test_outliers_that_are_here_stay_as_they_are(database: Database) -> None:
    history = FetchedHistory(database)
    await history.store_outliers((9, "!r", "11"), making((1, "$a")))
    again = making((2, "$a"), (3, "$b"))
    assert await history.store_outliers((8, "!r", "11"), again) == 9
    assert await stored(database) == {"$a": 1, "$b": 3}


async def test_a_copy_that_meets_an_event_of_ours_is_done_row_by_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROWS_WRITTEN_AT_ONCE", 1)
    history = FetchedHistory(database)
    await history.store_outliers((9, "!r", "11"), making((1, "$a")))
    other = making((2, "$b"), (3, "$a"), (4, "$c"), (5, "$c"))
    assert await history.store_outliers((8, "!other", "11"), other) == 8
    assert await stored(database) == {"$a": 1, "$b": 2, "$c": 4}
