"""Access tokens in the database, and the log-ins that make them."""

import asyncio

import pytest

from federation.events.ids import DeviceId, UserId
from homeserver.storage.accounts import accounts, refresh_tokens, tokens
from homeserver.storage.accounts.devices import DeviceRow, DeviceTable
from homeserver.storage.accounts.refresh_tokens import NewTokens
from homeserver.storage.accounts.tokens import AccessTokenTable, Login
from homeserver.storage.database import Database
from tests.homeserver.storage.accounts.account_rows import (
    ALICE,
    BOB,
    LAPTOP,
    PHONE,
    create,
    create_accounts,
    deactivate,
    new_account,
)
from tests.homeserver.storage.lock_waits import waits_for_lock


@pytest.fixture
async def table(database: Database) -> AccessTokenTable:
    """Return the table with Alice's and Bob's tokens."""
    await create_accounts(database, ALICE, BOB)
    return AccessTokenTable(database)


def login(token_hash: bytes, device_id: DeviceId = LAPTOP, password_hash: str = "hash") -> Login:
    """Return a log-in of Alice."""
    return Login(
        user_id=ALICE,
        password_hash=password_hash,
        device_id=device_id,
        device_name="a laptop",
        token_hash=token_hash,
        now_ms=9,
        address="::9",
    )


async def log_in(database: Database, one: Login) -> bool | None:
    async with database.transaction() as connection:
        return await tokens.log_in(connection, one)


async def holder(table: AccessTokenTable, token_hash: bytes) -> tuple[UserId, DeviceId] | None:
    found = await table.load(token_hash)
    return None if found is None else (found.user_id, found.device_id)


async def test_a_first_log_in_makes_the_device(database: Database, table: AccessTokenTable) -> None:
    assert await log_in(database, login(b"t")) is True
    assert await holder(table, b"t") == (ALICE, LAPTOP)
    expected = DeviceRow(LAPTOP, "a laptop", 9, "::9")
    assert await DeviceTable(database).load(ALICE, LAPTOP) == expected


async def test_a_further_log_in_ends_the_device_s_former_tokens_alone(
    database: Database, table: AccessTokenTable
) -> None:
    await log_in(database, login(b"laptop"))
    assert await log_in(database, login(b"new", PHONE)) is False
    assert await holder(table, b"new") == (ALICE, PHONE)
    assert await holder(table, ALICE.encode()) is None
    assert await holder(table, b"laptop") == (ALICE, LAPTOP)
    assert await holder(table, BOB.encode()) == (BOB, PHONE), "another user's device"
    expected = DeviceRow(PHONE, "a phone", 9, "::9")
    assert await DeviceTable(database).load(ALICE, PHONE) == expected, "its name stays"


@pytest.mark.parametrize("is_ended", [False, True])
async def test_an_outdated_password_makes_nothing(
    database: Database, table: AccessTokenTable, is_ended: bool
) -> None:
    if is_ended:
        await deactivate(database, ALICE)
    wrong = "hash" if is_ended else "former hash"
    for device_id in (LAPTOP, PHONE):
        assert await log_in(database, login(b"t", device_id, wrong)) is None
    assert await holder(table, b"t") is None
    found = await DeviceTable(database).load_all(ALICE)
    assert found == [DeviceRow(PHONE, "a phone", 5, "::1")]
    assert is_ended or await holder(table, ALICE.encode()) == (ALICE, PHONE)


async def test_a_log_in_waits_for_a_change_of_the_password(
    database: Database, table: AccessTokenTable
) -> None:
    async with database.transaction() as changing, asyncio.TaskGroup() as group:
        assert await accounts.change_password(changing, ALICE, "new hash")
        waiting = group.create_task(log_in(database, login(b"late")))
        assert await waits_for_lock(database, waiting)
        await changing.execute("COMMIT; BEGIN")
        assert await waiting is None
    assert await holder(table, b"late") is None
    assert await log_in(database, login(b"good", password_hash="new hash")) is True


async def test_a_log_in_ends_the_tokens_that_others_make_meanwhile(
    database: Database, table: AccessTokenTable
) -> None:
    async with database.transaction() as other, asyncio.TaskGroup() as group:
        await tokens.log_in(other, login(b"other", PHONE))
        new = NewTokens(access_hash=b"next", expires_ms=99, refresh_hash=b"refresh")
        await refresh_tokens.exchange(other, ALICE, PHONE, new)
        waiting = group.create_task(log_in(database, login(b"late", PHONE)))
        assert await waits_for_lock(database, waiting)
        await other.execute("COMMIT; BEGIN")
        assert await waiting is False
    assert await holder(table, b"late") == (ALICE, PHONE)
    assert await holder(table, b"other") is None
    assert await holder(table, b"next") is None


async def test_a_token_says_whether_it_is_a_guest_s(
    database: Database, table: AccessTokenTable
) -> None:
    guest = UserId("@guest:hs1")
    await create(database, new_account(guest, is_guest=True, password_hash=None))
    owners = [await table.load(user_id.encode()) for user_id in (guest, ALICE)]
    assert [owner and owner.is_guest for owner in owners] == [True, False]


async def test_an_ended_account_s_token_and_an_unknown_one_are_nobody_s(
    database: Database, table: AccessTokenTable
) -> None:
    await deactivate(database, ALICE)
    assert await table.load(ALICE.encode()) is None
    assert await table.load(b"") is None
    assert await holder(table, BOB.encode()) == (BOB, PHONE)
