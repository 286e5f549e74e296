"""Gaps, in the database: the lowest place counts, other rooms' gaps stay."""

from __future__ import annotations

import pytest

from homeserver.storage.database import Database
from homeserver.storage.timeline import gaps
from homeserver.storage.timeline.gaps import GapTable


@pytest.fixture
async def table(database: Database) -> GapTable:
    async with database.connection() as connection:
        await gaps.insert(
            connection,
            [(1, "$a", 5, 0), (1, "$a", 5, -2), (1, "$b", 3, 0), (1, "$c", 9, 0), (2, "$a", 7, 0)],
        )
    return GapTable(database)


async def test_of_several_places_the_lowest_counts(database: Database, table: GapTable) -> None:
    async with database.connection() as connection:
        await gaps.insert(connection, [(1, "$b", 4, 0), (1, "$c", 8, 1)])
    found = {gap.missing: gap.order for gap in await table.before(1, (99, 0), 9)}
    assert found == {"$a": (5, -2), "$b": (3, 0), "$c": (8, 1)}


async def test_the_nearest_come_first_and_the_place_itself_counts(table: GapTable) -> None:
    assert [gap.missing for gap in await table.before(1, (5, -2), 9)] == ["$a", "$b"]
    assert [gap.missing for gap in await table.before(1, (5, -3), 9)] == ["$b"]
    assert [gap.missing for gap in await table.behind(1, (5, -2), 9)] == ["$a", "$c"]
    assert [gap.missing for gap in await table.behind(1, (0, 0), 1)] == ["$b"]
    assert [gap.missing for gap in await table.left_by(1, ["$b", "$c", "$x"])] == ["$c", "$b"]


async def test_a_gap_is_closed_in_its_room_alone(database: Database, table: GapTable) -> None:
    async with database.connection() as connection:
        await gaps.close(connection, 1, ["$a", "$x"])
    found = await table.of_rooms([1, 2])
    assert sorted((gap.room_row_id, gap.missing) for gap in found) == [
        (1, "$b"),
        (1, "$c"),
        (2, "$a"),
    ]
    assert await table.of_rooms([3]) == []
