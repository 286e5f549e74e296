"""Aliases and published rooms in the database."""

import asyncio

import pytest

from federation.events.ids import RoomAlias, RoomId, UserId
from homeserver.storage.database import Database
from homeserver.storage.rooms import directory
from homeserver.storage.rooms.directory import AliasRow, DirectoryTable

OLD, NEW, THIRD = (RoomId(f"!{name}:x.example") for name in ("old", "new", "third"))
ALICE = UserId("@alice:x.example")


@pytest.fixture
def table(database: Database) -> DirectoryTable:
    return DirectoryTable(database)


def row(name: str, created_ms: int = 1, room_id: RoomId = OLD) -> AliasRow:
    """Return an alias by Alice."""
    return AliasRow(RoomAlias(f"#{name}:x.example"), room_id, ALICE, created_ms)


async def insert(database: Database, one: AliasRow) -> bool:
    async with database.transaction() as connection:
        return await directory.insert_alias(connection, one)


async def move(database: Database, old: RoomId, new: RoomId) -> None:
    async with database.transaction() as connection:
        await directory.move_aliases(connection, old, new)


async def test_an_alias_names_one_room_only(database: Database, table: DirectoryTable) -> None:
    assert await insert(database, row("a"))
    assert not await insert(database, row("a", room_id=NEW))
    assert await table.load_alias(RoomAlias("#a:x.example")) == row("a")
    assert await table.load_alias(RoomAlias("#b:x.example")) is None


async def test_one_of_concurrent_requests_gets_an_alias(
    database: Database, table: DirectoryTable
) -> None:
    rooms = [OLD, NEW, THIRD]
    got = await asyncio.gather(*(insert(database, row("a", room_id=one)) for one in rooms))
    assert sorted(got) == [False, False, True]
    assert await table.load_alias(row("a").alias) == row("a", room_id=rooms[got.index(True)])


async def test_aliases_of_a_room_come_oldest_first(
    database: Database, table: DirectoryTable
) -> None:
    for name, created_ms in (("c", 3), ("a", 2), ("ä", 1), ("b", 1)):
        await insert(database, row(name, created_ms))
    await insert(database, row("other", room_id=NEW))
    names = ["#b:x.example", "#ä:x.example", "#a:x.example", "#c:x.example"]
    assert await table.load_aliases(OLD) == names
    async with database.transaction() as connection:
        assert await directory.count_aliases(connection, OLD) == 4
        assert await directory.count_aliases(connection, THIRD) == 0


async def test_an_alias_that_names_another_room_by_now_is_not_removed(
    database: Database, table: DirectoryTable
) -> None:
    await insert(database, row("a"))
    await insert(database, row("b"))
    alias = RoomAlias("#a:x.example")
    assert not await table.delete_alias(alias, NEW)
    assert await table.delete_alias(alias, OLD)
    assert not await table.delete_alias(alias, OLD)
    assert await table.load_aliases(OLD) == ["#b:x.example"]


async def test_aliases_and_publication_move_with_an_upgrade(
    database: Database, table: DirectoryTable
) -> None:
    await insert(database, row("a"))
    await insert(database, row("third", room_id=THIRD))
    for room_id in (OLD, THIRD):
        await table.publish(room_id, ALICE, 1)
    await move(database, OLD, NEW)
    assert await table.load_aliases(OLD) == []
    assert await table.load_aliases(NEW) == ["#a:x.example"]
    assert await table.load_aliases(THIRD) == ["#third:x.example"]
    assert sorted(await table.load_published(9)) == [NEW, THIRD]


async def test_an_unpublished_room_s_successor_is_not_published(
    database: Database, table: DirectoryTable
) -> None:
    await move(database, OLD, NEW)
    assert await table.load_published(9) == []
    await table.publish(OLD, ALICE, 1)
    await table.publish(NEW, ALICE, 5)
    await move(database, OLD, NEW)
    assert await table.load_published(9) == [NEW], "it was published already"


async def test_a_room_is_published_until_it_is_not(table: DirectoryTable) -> None:
    assert not await table.is_published(OLD)
    await table.publish(NEW, ALICE, 1)
    for _ in range(2):
        await table.publish(OLD, ALICE, 1)
    assert await table.is_published(OLD)
    for _ in range(2):
        await table.unpublish(OLD)
    assert [await table.is_published(room_id) for room_id in (OLD, NEW)] == [False, True]


async def test_the_last_published_room_comes_first(table: DirectoryTable) -> None:
    for room_id, now_ms in ((OLD, 2), (NEW, 2), (THIRD, 3), (OLD, 9)):
        await table.publish(room_id, ALICE, now_ms)
    assert await table.load_published(9) == [THIRD, NEW, OLD]
    assert await table.load_published(2) == [THIRD, NEW]
