"""Account data in the database: the latest of each item."""

import pytest

from federation.events.ids import UserId
from homeserver.engine.entries import AccountDataEntry
from homeserver.storage.account_data import account_data
from homeserver.storage.account_data.account_data import AccountData, AccountDataTable
from homeserver.storage.database import Database
from homeserver.storage.sync.filters import FilterTable

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
ROOM = "!room:hs1"


@pytest.fixture
def table(database: Database) -> AccountDataTable:
    return AccountDataTable(database)


async def append(database: Database, *rows: tuple[int, UserId, str, str, bytes]) -> None:
    """Store entries (position, user, room, type, content) of one batch."""
    async with database.transaction() as connection:
        await account_data.append(
            connection, [(row[0], AccountDataEntry(row[1], row[2], row[3], row[4])) for row in rows]
        )


async def test_an_item_is_one_of_a_user_a_room_and_a_type(
    database: Database, table: AccountDataTable
) -> None:
    await append(
        database,
        (1, ALICE, "", "a", b"global"),
        (2, ALICE, ROOM, "a", b"room"),
        (3, ALICE, "", "b", b"\x00\xff"),
        (4, BOB, "", "a", b"bob"),
    )
    keys = [(ALICE, "", "a"), (ALICE, ROOM, "a"), (ALICE, "", "b"), (BOB, "", "a"), (BOB, "", "b")]
    found = [await table.load(*key) for key in keys]
    assert found == [b"global", b"room", b"\x00\xff", b"bob", None]


async def test_the_last_of_a_batch_and_of_all_batches_counts(
    database: Database, table: AccountDataTable
) -> None:
    await append(database, (1, ALICE, "", "a", b"1"), (2, ALICE, "", "a", b"2"))
    assert await table.load(ALICE, "", "a") == b"2"
    await append(database, (3, ALICE, "", "b", b"3"), (4, ALICE, "", "a", b"4"))
    assert await table.load_between(ALICE, after=0, up_to=9) == [
        AccountData("", "b", b"3", 3),
        AccountData("", "a", b"4", 4),
    ]


async def test_a_stretch_of_the_log_has_its_end_and_not_its_start(
    database: Database, table: AccountDataTable
) -> None:
    await append(database, *((at, ALICE, "", f"t{at}", b"{}") for at in (3, 1, 2, 4)))
    await append(database, (2, BOB, "", "t", b"{}"))
    found = await table.load_between(ALICE, after=1, up_to=3)
    assert [item.position for item in found] == [2, 3]


async def test_items_are_counted_in_the_transaction_for_one_user(database: Database) -> None:
    async with database.transaction() as connection:
        assert await account_data.count(connection, ALICE) == 0
        keys = [(ALICE, "", "a"), (ALICE, ROOM, "a"), (BOB, "", "a")]
        entries = [AccountDataEntry(*key, b"") for key in keys]
        await account_data.append(connection, list(enumerate(entries)))
        assert await account_data.load(connection, ALICE, ROOM, "a") == b""
        assert await account_data.count(connection, ALICE) == 2
        assert await account_data.count(connection, BOB) == 1


async def test_all_of_one_user_s_data_and_filters_go(
    database: Database, table: AccountDataTable
) -> None:
    filters = FilterTable(database)
    for user_id in (ALICE, BOB):
        await append(database, (1, user_id, "", "a", b"1"), (2, user_id, ROOM, "a", b"2"))
        assert await filters.store(user_id, b"{}", at_most=1) == 0
    async with database.transaction() as connection:
        await account_data.delete_all(connection, ALICE)
    assert await table.load_between(ALICE, after=0, up_to=9) == []
    assert len(await table.load_between(BOB, after=0, up_to=9)) == 2
    assert [await filters.load(user_id, 0) for user_id in (ALICE, BOB)] == [None, b"{}"]
