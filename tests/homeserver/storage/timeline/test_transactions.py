"""Clients' transactions, in the database: of one device, and not for ever."""

from __future__ import annotations

import pytest

from homeserver.storage.database import Database, DataRefused
from homeserver.storage.timeline import transactions
from homeserver.storage.timeline.transactions import TransactionTable

SENT = [
    ("@a:h", "D", b"1", "$1", 5),
    ("@a:h", "D", b"2", "$2", 7),
    ("@a:h", "D", b"3", "$3", 6),
    ("@a:h", "E", b"1", "$4", 8),
    ("@b:h", "D", b"1", "$5", 9),
]


@pytest.fixture
async def table(database: Database) -> TransactionTable:
    async with database.connection() as connection:
        await transactions.insert(connection, SENT)
    return TransactionTable(database)


async def test_a_transaction_is_of_one_device(table: TransactionTable) -> None:
    found = [await table.find("@a:h", device, b"1") for device in ("D", "E", "F")]
    assert [one and (one.event_id, one.position) for one in found] == [("$1", 5), ("$4", 8), None]
    newest = await table.of_device("@a:h", "D", 2)
    assert [(one.key, one.event_id) for one in newest] == [(b"2", "$2"), (b"3", "$3")]


async def test_an_id_has_one_result(database: Database, table: TransactionTable) -> None:
    with pytest.raises(DataRefused):
        async with database.transaction() as connection:
            await transactions.insert(connection, [("@a:h", "D", b"1", "$other", 10)])
    found = await table.find("@a:h", "D", b"1")
    assert found is not None
    assert found.event_id == "$1"


async def test_a_removed_devices_transactions_go(
    database: Database, table: TransactionTable
) -> None:
    async with database.connection() as connection:
        await transactions.delete_devices(connection, "@a:h", ["D"])
    left = [await table.of_device(user, "D", 9) for user in ("@a:h", "@b:h")]
    assert [len(one) for one in left] == [0, 1]
    assert await table.find("@a:h", "E", b"1") is not None


async def test_old_transactions_are_forgotten(database: Database, table: TransactionTable) -> None:
    await database.execute(
        "UPDATE client_transactions SET sent_on = CURRENT_DATE - 3 WHERE key = $1", b"1"
    )
    await table.forget_old(3)
    assert await table.find("@a:h", "D", b"1") is not None, "of the third day"
    await table.forget_old(2)
    assert await table.find("@a:h", "D", b"1") is None
    assert await table.find("@a:h", "D", b"2") is not None
