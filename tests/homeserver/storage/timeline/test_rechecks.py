"""Rechecks, in the database: what makes an event due, and what ends that."""

from __future__ import annotations

import pytest

from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms
from homeserver.storage.timeline import events, rechecks
from homeserver.storage.timeline.events import EventTable
from homeserver.storage.timeline.rechecks import RecheckRows, RecheckTable
from tests.homeserver.storage.event_rows import OTHER, ROOM, outlier, placed


@pytest.fixture
async def table(database: Database) -> RecheckTable:
    """Three unverified events in a row behind a missing one, and one in another room."""
    async with database.connection() as connection:
        await rooms.ensure(connection, ROOM, "!r", "11")
        await rooms.ensure(connection, OTHER, "!other", "11")
        await events.insert(
            connection,
            [placed(number, f"${number}", unverified=True) for number in (1, 2, 3)]
            + [placed(4, "$4", OTHER, unverified=True), outlier(5, "$5")],
        )
    opened = [
        (ROOM, "$0", 1, True),
        (ROOM, "$1", 2, False),
        (ROOM, "$2", 3, False),
        (OTHER, "$0", 4, True),
    ]
    await write(database, RecheckRows(opened=opened))
    return RecheckTable(database)


async def write(database: Database, rows: RecheckRows) -> None:
    async with database.connection() as connection:
        await rechecks.write(connection, rows)


async def due(table: RecheckTable, room: int = ROOM, limit: int = 9) -> list[str]:
    return [row.event_id for row in await table.due(room, limit)]


async def test_events_are_due_when_a_missing_parent_gets_its_place(
    database: Database, table: RecheckTable
) -> None:
    assert await due(table) == []
    found = await table.awaited([ROOM, OTHER])
    assert sorted((one.room_row_id, one.parent) for one in found) == [(OTHER, "$0"), (ROOM, "$0")]
    await write(database, RecheckRows(placed=[(ROOM, "$0")]))
    assert await due(table) == ["$1", "$2", "$3"], "its descendants may come next"
    assert await due(table, limit=2) == ["$1", "$2"]
    assert await due(table, OTHER) == []
    assert [one.room_row_id for one in await table.awaited([ROOM, OTHER])] == [OTHER]
    assert await table.rooms_with_work() == ["!r"]
    await write(database, RecheckRows(not_due=[(ROOM, 1)], placed=[(ROOM, "$0")]))
    assert await due(table) == [], "it has its place already"


async def test_a_verified_event_makes_its_children_due(
    database: Database, table: RecheckTable
) -> None:
    await write(database, RecheckRows(due=[(ROOM, 1), (OTHER, 4)]))
    await write(database, RecheckRows(verified=[(ROOM, 1, "$1")]))
    assert await due(table) == ["$2", "$3"]
    assert await due(table, OTHER) == ["$4"]
    found = {row.event_id: row.unverified for row in await EventTable(database).by_id(["$1", "$2"])}
    assert found == {"$1": False, "$2": True}
    assert await table.awaited([ROOM]) == [], "it waits for nothing any more"


async def test_a_marked_event_is_unverified_again_and_due(
    database: Database, table: RecheckTable
) -> None:
    await write(database, RecheckRows(verified=[(ROOM, 3, "$3")]))
    await write(database, RecheckRows(marked=[(ROOM, 3)], due=[(ROOM, 3)]))
    assert await due(table) == ["$3"]
    [row] = await EventTable(database).by_id(["$3"])
    assert row.unverified


async def test_history_comes_before_events_without_a_place(
    database: Database, table: RecheckTable
) -> None:
    await write(database, RecheckRows(due=[(ROOM, 5), (ROOM, 3), (ROOM, 2)]))
    assert await due(table) == ["$2", "$3", "$5"]


def test_changes_of_a_batch_add_up() -> None:
    rows = RecheckRows()
    assert not rows
    rows.extend(RecheckRows(due=[(1, 2)], placed=[(1, "$a")]))
    rows.extend(RecheckRows(due=[(1, 3)]))
    assert rows
    assert (rows.due, rows.placed) == ([(1, 2), (1, 3)], [(1, "$a")])
