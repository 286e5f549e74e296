"""Registration tokens in the database: how often and how long they are good."""

import pytest

from homeserver.storage.accounts import registration_tokens
from homeserver.storage.accounts.registration_tokens import RegistrationTokenTable
from homeserver.storage.database import Database, DataRefused


@pytest.fixture
def table(database: Database) -> RegistrationTokenTable:
    return RegistrationTokenTable(database)


async def uses(database: Database, token: str, now_ms: int, times: int) -> list[bool]:
    """Return which of a number of uses were granted."""
    async with database.transaction() as connection:
        return [await registration_tokens.use(connection, token, now_ms) for _ in range(times)]


async def test_a_token_is_used_as_often_as_it_says(
    database: Database, table: RegistrationTokenTable
) -> None:
    await table.create("twice", uses_allowed=2)
    await table.create("unused", uses_allowed=1)
    assert await table.is_usable("twice", 0)
    assert await uses(database, "twice", 0, 3) == [True, True, False]
    assert not await table.is_usable("twice", 0)
    assert await table.is_usable("unused", 0), "each token has its own uses"


async def test_a_token_without_bounds_stays_usable(
    database: Database, table: RegistrationTokenTable
) -> None:
    await table.create("free")
    assert await uses(database, "free", 2**50, 5) == [True] * 5
    assert await table.is_usable("free", 2**50)


async def test_a_token_is_usable_before_it_expires(
    database: Database, table: RegistrationTokenTable
) -> None:
    await table.create("short", expires_ms=10)
    assert [await table.is_usable("short", now_ms) for now_ms in (9, 10)] == [True, False]
    assert await uses(database, "short", 10, 1) == [False]
    assert await uses(database, "short", 9, 1) == [True]


async def test_an_unknown_token_is_not_usable(
    database: Database, table: RegistrationTokenTable
) -> None:
    assert not await table.is_usable("none", 0)
    assert await uses(database, "none", 0, 1) == [False]


async def test_a_name_is_given_once(table: RegistrationTokenTable) -> None:
    await table.create("one", uses_allowed=1)
    with pytest.raises(DataRefused):
        await table.create("one")
