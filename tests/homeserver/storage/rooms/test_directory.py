"""Aliases and published rooms in the database."""

from collections.abc import AsyncIterator

import pytest

from federation.events.ids import RoomAlias, RoomId, UserId
from homeserver.storage.database import Connection, Database
from homeserver.storage.migrate import migrate
from homeserver.storage.rooms import directory
from homeserver.storage.rooms.directory import AliasRow

OLD, NEW = RoomId("!old:x.example"), RoomId("!new:x.example")
ALICE = UserId("@alice:x.example")


def row(name: str, created_ms: int = 1, room_id: RoomId = OLD) -> AliasRow:
    """An alias by Alice."""
    return AliasRow(RoomAlias(f"#{name}:x.example"), room_id, ALICE, created_ms)


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Connection]:
    """An open connection to a database with our tables."""
    database = await Database.open(postgres_url, connections=1)
    await migrate(database)
    async with database.connection() as connection:
        yield connection
    await database.close()


async def test_an_alias_names_one_room_only(connection: Connection) -> None:
    assert await directory.insert_alias(connection, row("a"))
    assert not await directory.insert_alias(connection, row("a", room_id=NEW))
    assert await directory.load_alias(connection, RoomAlias("#a:x.example")) == row("a")
    assert await directory.load_alias(connection, RoomAlias("#b:x.example")) is None


async def test_aliases_of_a_room_come_oldest_first(connection: Connection) -> None:
    for name, created_ms in (("c", 3), ("a", 2), ("b", 1)):
        await directory.insert_alias(connection, row(name, created_ms))
    await directory.insert_alias(connection, row("other", room_id=NEW))
    found = await directory.load_aliases(connection, OLD)
    assert found == ["#b:x.example", "#a:x.example", "#c:x.example"]


async def test_an_alias_that_names_another_room_by_now_is_not_removed(
    connection: Connection,
) -> None:
    await directory.insert_alias(connection, row("a"))
    alias = RoomAlias("#a:x.example")
    assert not await directory.delete_alias(connection, alias, NEW)
    assert await directory.delete_alias(connection, alias, OLD)
    assert not await directory.delete_alias(connection, alias, OLD)


async def test_aliases_and_publication_move_with_an_upgrade(connection: Connection) -> None:
    await directory.insert_alias(connection, row("a"))
    await directory.publish(connection, OLD, ALICE, 1)
    await directory.move_aliases(connection, OLD, NEW)
    assert await directory.load_aliases(connection, OLD) == []
    assert await directory.load_aliases(connection, NEW) == ["#a:x.example"]
    assert not await directory.is_published(connection, OLD)
    assert await directory.is_published(connection, NEW)


async def test_a_room_is_published_until_it_is_not(connection: Connection) -> None:
    assert not await directory.is_published(connection, OLD)
    for _ in range(2):
        await directory.publish(connection, OLD, ALICE, 1)
    assert await directory.is_published(connection, OLD)
    for _ in range(2):
        await directory.unpublish(connection, OLD)
    assert not await directory.is_published(connection, OLD)
