"""The engine's store over PostgreSQL, where it is more than its functions: bulk."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.engine_store import PostgresStore
from homeserver.storage.migrate import migrate
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.timeline import events
from homeserver.storage.timeline.events import EventRow


def outlier(row_id: int, event_id: str, room_row_id: int, type_: str = "m.x") -> EventRow:
    """A state event without a place."""
    nothing = (None,) * 3
    flags = (True, False, False)
    return EventRow(
        *(room_row_id, row_id, event_id, type_, "k", "@u:a", None, *nothing, 0, None, *flags),
        *(None, None, None, None, None, f"{row_id}".encode()),
    )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresStore]:
    """A store with our tables."""
    database = await Database.open(url, connections=2)
    await migrate(database)
    try:
        yield PostgresStore(database)
    finally:
        await database.close()


def making(*made: tuple[int, str]) -> Callable[[int], Sequence[EventRow]]:
    """Rows for whatever number the room has."""
    return lambda room_row_id: [outlier(row_id, event_id, room_row_id) for row_id, event_id in made]


async def stored(store: PostgresStore) -> dict[str, int]:
    """Events and their numbers."""
    rows = await store.events.by_id([f"${letter}" for letter in "abcdef"])
    return {row["event_id"]: row["event_row_id"] for row in rows}


async def test_outliers_of_a_new_room_are_copied_in_pieces(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_insert(*_: object) -> None:
        raise AssertionError("a new room's events are copied")

    monkeypatch.setattr(limits, "ROWS_WRITTEN_AT_ONCE", 2)
    monkeypatch.setattr(events, "insert_outliers", no_insert)
    async with opened(postgres_url) as store:
        given = making((1, "$a"), (2, "$b"), (3, "$c"))
        assert await store.events.store_outliers((9, "!r", "11"), given) == 9
        assert await stored(store) == {"$a": 1, "$b": 2, "$c": 3}
        (row,) = await store.events.by_id(["$c"])
        assert (row["type"], row["state_key"], row["outlier"], bytes(row["json"])) == (
            "m.x",
            "k",
            True,
            b"3",
        )


async def test_outliers_that_are_here_stay_as_they_are(postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        await store.events.store_outliers((9, "!r", "11"), making((1, "$a")))
        again = making((2, "$a"), (3, "$b"))
        assert await store.events.store_outliers((8, "!r", "11"), again) == 9
        assert await stored(store) == {"$a": 1, "$b": 3}


async def test_a_copy_that_meets_an_event_of_ours_is_done_row_by_row(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROWS_WRITTEN_AT_ONCE", 1)
    async with opened(postgres_url) as store:
        await store.events.store_outliers((9, "!r", "11"), making((1, "$a")))
        other = making((2, "$b"), (3, "$a"), (4, "$c"), (5, "$c"))
        assert await store.events.store_outliers((8, "!other", "11"), other) == 8
        assert await stored(store) == {"$a": 1, "$b": 2, "$c": 4}


async def test_brought_members_are_written_in_pieces_and_the_newest_counts(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROWS_WRITTEN_AT_ONCE", 2)
    async with opened(postgres_url) as store:
        await store.events.store_outliers((9, "!r", "11"), making())
        users = [f"@u{number}:a" for number in range(5)]
        for membership in ("join", "leave"):
            rows = [MembershipRow(9, user, membership, "$e", user, 1) for user in users]
            await store.memberships.import_members(rows)
            found = await store.memberships.of_users(users, membership)
            assert sorted(row["user_id"] for row in found) == users
        assert await store.memberships.of_users(users, "join") == []
