"""The index of messages, in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.rules.timeline.message_search import SEARCHED_TYPES, parse_query
from homeserver.rules.timeline.search_requests import SearchPlace
from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms
from homeserver.storage.timeline import events, redactions, search
from homeserver.storage.timeline.events import EventRow
from homeserver.storage.timeline.redactions import RedactedRow
from homeserver.storage.timeline.search import (
    SearchEntry,
    SearchScope,
    SearchTable,
    UnindexedRow,
)
from tests.homeserver.storage.event_rows import ROOM, placed

HERE = RoomId("!r")
ALL = SearchScope([HERE], None, SEARCHED_TYPES)


def message(row_id: int, position: int | None = None, **fields: object) -> EventRow:
    """An m.room.message `$<row_id>`."""
    row: EventRow = msgspec.structs.replace(
        placed(row_id, f"${row_id}"),
        **{"type": "m.room.message", "state_key": None, "position": position, **fields},
    )
    return row


async def with_events(database: Database, *rows: EventRow) -> SearchTable:
    async with database.transaction() as connection:
        await rooms.ensure(connection, ROOM, HERE, "11")
        await events.insert(connection, rows)
    return SearchTable(database)


def entry(row_id: int, *terms: str, sent_ms: int | None = None) -> SearchEntry:
    return SearchEntry(ROOM, row_id, row_id if sent_ms is None else sent_ms, terms)


async def found(
    table: SearchTable, text: str, scope: SearchScope = ALL, **more: object
) -> list[int]:
    """The numbers of the events that a search finds, in its order."""
    wanted = {"before": None, "limit": 10, **more}
    rows = await table.find(parse_query(text), scope, **wanted)  # type: ignore[arg-type]
    assert {row.room_id for row in rows} <= set(scope.rooms)
    assert [row.event_id for row in rows] == [f"${row.place.event_row_id}" for row in rows]
    return [row.place.event_row_id for row in rows]


async def test_nothing_is_indexed_at_first(database: Database) -> None:
    table = SearchTable(database)
    assert await table.position() == 0
    await table.store([], position=7)
    await table.store([], position=9)
    assert await table.position() == 9


async def test_the_log_is_read_between_two_positions(database: Database) -> None:
    table = await with_events(
        database,
        message(1, 5),
        message(2, 6),
        message(3, 7),
        message(4, None),
        message(5, 7, type="m.room.encrypted"),
        message(6, 7, type="m.room.name", state_key=""),
    )
    rows = await table.unindexed(after=5, up_to=7)
    kinds = sorted((row.event_row_id, row.type, row.is_state) for row in rows)
    assert kinds == [
        (2, "m.room.message", False),
        (3, "m.room.message", False),
        (6, "m.room.name", True),
    ]
    assert rows[0].json == message(2).json


async def test_entries_are_found_by_whole_terms_and_by_prefixes(database: Database) -> None:
    table = await with_events(database, *(message(number) for number in (1, 2, 3)))
    await table.store(
        [entry(1, "tea", "at"), entry(2, "team", "attic"), entry(3, "日", "本", "日本")], position=1
    )
    assert await found(table, "tea") == [2, 1]
    assert await found(table, "tea at") == [1]
    assert await found(table, "at") == [1]
    assert await found(table, "日本") == [3]
    assert await found(table, "本日") == []


async def test_the_newest_come_first_page_by_page(database: Database) -> None:
    table = await with_events(database, *(message(number) for number in (1, 2, 3, 4)))
    sent = {1: 50, 2: 10, 3: 50, 4: 20}
    entries = [entry(number, "x", sent_ms=ms) for number, ms in sent.items()]
    await table.store(entries, position=1)
    assert await found(table, "x") == [3, 1, 4, 2]
    assert await found(table, "x", limit=2) == [3, 1]
    assert await found(table, "x", before=SearchPlace(50, 1)) == [4, 2]
    assert await found(table, "x", before=SearchPlace(50, 3)) == [1, 4, 2]


async def test_the_scope_bounds_a_search(database: Database) -> None:
    table = await with_events(
        database,
        message(1, sender="@a:hs1"),
        message(2, sender="@b:hs1"),
        message(3, type="m.room.topic", state_key="", sender="@b:hs1"),
    )
    await table.store([entry(number, "x") for number in (1, 2, 3)], position=1)
    bob = [UserId("@b:hs1")]
    assert await found(table, "x", SearchScope([HERE], bob, SEARCHED_TYPES)) == [3, 2]
    assert await found(table, "x", SearchScope([HERE], [], SEARCHED_TYPES)) == []
    assert await found(table, "x", SearchScope([HERE], bob, ["m.room.message"])) == [2]
    assert await found(table, "x", SearchScope([RoomId("!s")], None, SEARCHED_TYPES)) == []
    assert await found(table, "x", SearchScope([], None, SEARCHED_TYPES)) == []


async def waiting(table: SearchTable) -> Sequence[UnindexedRow]:
    return sorted(await table.waiting(), key=lambda row: row.event_row_id)


async def test_fetched_history_waits_until_it_is_indexed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [message(1), message(2, type="m.room.encrypted"), message(3)]
    table = await with_events(database, *rows)
    async with database.transaction() as connection:
        await search.add_waiting(connection, rows)
        await search.add_waiting(connection, rows[:1])
        await search.add_waiting(connection, [])
    assert [row.event_row_id for row in await waiting(table)] == [1, 3]
    monkeypatch.setattr(limits, "SEARCH_POSITIONS", 1)
    first = await table.waiting()
    assert len(first) == 1
    await table.store_waiting([entry(first[0].event_row_id, "x")], first)
    rest = await table.waiting()
    assert {row.event_row_id for row in (*first, *rest)} == {1, 3}
    await table.store_waiting([], rest)
    assert await table.waiting() == []
    assert await found(table, "x") == [first[0].event_row_id]


async def redact(database: Database, event_id: str) -> None:
    async with database.transaction() as connection:
        await redactions.write(connection, [RedactedRow(ROOM, event_id, b"{}", "$by")], [])


async def test_a_redacted_event_leaves_the_index_and_does_not_come_back(
    database: Database,
) -> None:
    table = await with_events(database, message(1), message(2))
    await table.store([entry(1, "x"), entry(2, "x")], position=1)
    await redact(database, "$1")
    assert await found(table, "x") == [2]
    await table.store([entry(1, "x")], position=2)
    assert await found(table, "x") == [2]
    left = await database.fetchval("SELECT count(*) FROM search_events")
    assert left == 1


async def test_an_event_that_is_redacted_meanwhile_is_not_indexed(database: Database) -> None:
    """The terms were made of the text that a redaction, which isn't committed yet, takes away."""
    table = await with_events(database, message(1))
    async with database.transaction() as connection:
        await redactions.write(connection, [RedactedRow(ROOM, "$1", b"{}", "$by")], [])
        storing = asyncio.create_task(table.store([entry(1, "x")], position=1))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with asyncio.timeout(30):
            while not await database.fetchval(waits + " AND datname = current_database()"):
                await asyncio.sleep(0.01)
    await storing
    assert await database.fetchval("SELECT count(*) FROM search_events") == 0
