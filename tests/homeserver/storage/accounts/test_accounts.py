"""Accounts in the database: created whole, changed while active, ended once."""

import pytest

from federation.events.ids import RoomId, UserId
from homeserver.storage import logs
from homeserver.storage.accounts import accounts
from homeserver.storage.accounts.accounts import Account, AccountTable
from homeserver.storage.accounts.devices import DeviceRow, DeviceTable
from homeserver.storage.accounts.profiles import ProfileTable
from homeserver.storage.accounts.tokens import AccessTokenTable
from homeserver.storage.database import Database
from homeserver.storage.logs import LogTable
from tests.homeserver.storage.accounts.account_rows import (
    ALICE,
    BOB,
    CAROL,
    LAPTOP,
    PHONE,
    create,
    create_accounts,
    deactivate,
    new_account,
)


@pytest.fixture
def table(database: Database) -> AccountTable:
    return AccountTable(database)


async def test_an_account_comes_with_its_profile_device_and_token(
    database: Database, table: AccountTable
) -> None:
    assert await table.load(ALICE) is None
    assert await create(database, new_account(ALICE))
    assert await table.load(ALICE) == Account(
        ALICE, "hash", is_guest=False, is_deactivated=False, is_locked=False
    )
    assert await ProfileTable(database).load(ALICE) == {"displayname": b'"name"'}
    assert await DeviceTable(database).load_all(ALICE) == [DeviceRow(PHONE, "a phone", 5, "::1")]
    owner = await AccessTokenTable(database).load(ALICE.encode())
    assert owner is not None
    assert (owner.user_id, owner.device_id, owner.is_guest) == (ALICE, PHONE, False)


async def test_without_a_device_there_is_no_token_either(database: Database) -> None:
    assert await create(database, new_account(ALICE, device_id=None))
    assert await DeviceTable(database).load_all(ALICE) == []
    assert await AccessTokenTable(database).load(ALICE.encode()) is None


@pytest.mark.parametrize("is_ended", [False, True])
async def test_nothing_is_stored_for_a_name_that_is_taken(
    database: Database, table: AccountTable, is_ended: bool
) -> None:
    await create_accounts(database, ALICE)
    if is_ended:
        await deactivate(database, ALICE)
    before = await table.load(ALICE)
    other = new_account(ALICE, device_id=LAPTOP, password_hash="other", token_hash=b"other")
    assert not await create(database, other)
    assert await table.load(ALICE) == before
    assert [one.device_id for one in await DeviceTable(database).load_all(ALICE)] == [PHONE]
    assert await AccessTokenTable(database).load(b"other") is None


async def test_a_password_changes_only_from_the_one_that_was_checked(
    database: Database, table: AccountTable
) -> None:
    await create_accounts(database, ALICE, BOB)
    assert not await table.change_password(ALICE, "lost", previous="former")
    assert await table.change_password(ALICE, "second", previous="hash")
    assert await table.change_password(ALICE, "third")
    found = [await table.load(user_id) for user_id in (ALICE, BOB)]
    assert [account and account.password_hash for account in found] == ["third", "hash"]


async def test_an_ended_account_gets_no_password(database: Database, table: AccountTable) -> None:
    await create_accounts(database, ALICE)
    await deactivate(database, ALICE)
    assert not await table.change_password(ALICE, "again")
    account = await table.load(ALICE)
    assert account is not None
    assert account.password_hash is None


async def test_a_guest_is_upgraded_once(database: Database, table: AccountTable) -> None:
    await create(database, new_account(ALICE, is_guest=True, password_hash=None))
    await create_accounts(database, BOB)
    async with database.transaction() as connection:
        assert await accounts.upgrade_guest(connection, ALICE, "first")
        assert not await accounts.upgrade_guest(connection, ALICE, "second")
        assert not await accounts.upgrade_guest(connection, BOB, "stolen")
    assert await table.load(ALICE) == Account(
        ALICE, "first", is_guest=False, is_deactivated=False, is_locked=False
    )
    assert await table.load(BOB) == Account(
        BOB, "hash", is_guest=False, is_deactivated=False, is_locked=False
    )


async def test_an_ended_guest_is_not_upgraded(database: Database) -> None:
    await create(database, new_account(ALICE, is_guest=True, password_hash=None))
    await deactivate(database, ALICE)
    async with database.transaction() as connection:
        assert not await accounts.upgrade_guest(connection, ALICE, "hash")


async def test_an_account_ends_once_and_alone(database: Database, table: AccountTable) -> None:
    await create_accounts(database, ALICE, BOB)
    assert await deactivate(database, ALICE)
    assert not await deactivate(database, ALICE)
    assert not await deactivate(database, CAROL), "there is no such account"
    assert await table.load(ALICE) == Account(
        ALICE, None, is_guest=False, is_deactivated=True, is_locked=False
    )
    assert await table.load(BOB) == Account(
        BOB, "hash", is_guest=False, is_deactivated=False, is_locked=False
    )


async def test_departures_wait_in_order_until_each_is_done(
    database: Database, table: AccountTable
) -> None:
    await create_accounts(database, CAROL, ALICE, BOB)
    for user_id in (CAROL, ALICE):
        await deactivate(database, user_id)
    assert await table.load_departing() == [ALICE, CAROL]
    await table.forget_departing(ALICE)
    await table.forget_departing(BOB)
    assert await table.load_departing() == [CAROL]
    await deactivate(database, ALICE)
    assert await table.load_departing() == [CAROL], "it was ended before"


async def test_an_erasure_has_the_position_of_its_time(
    database: Database, table: AccountTable
) -> None:
    await create_accounts(database, ALICE, BOB, CAROL)
    owned = await LogTable(database).take_over("history")
    async with database.transaction() as connection:
        assert await logs.move(connection, epoch=owned.epoch, old=0, new=7)
        await accounts.deactivate(connection, ALICE, erase=True)
        assert await logs.move(connection, epoch=owned.epoch, old=7, new=9)
        await accounts.deactivate(connection, BOB, erase=True)
        await accounts.deactivate(connection, CAROL, erase=False)
        await accounts.deactivate(connection, CAROL, erase=True)
    assert await table.load_erased() == {ALICE: 7, BOB: 9}


async def test_the_token_that_ended_an_account_is_remembered(
    database: Database, table: AccountTable
) -> None:
    await LogTable(database).take_over("history")
    await create_accounts(database, ALICE, BOB)
    for user_id, erase in ((ALICE, False), (BOB, True)):
        owner = await AccessTokenTable(database).load(user_id.encode())
        assert owner is not None
        async with database.transaction() as connection:
            await accounts.deactivate(connection, user_id, erase=erase, token_id=owner.token_id)
    ended = {
        (user_id, erased): await table.is_ended_by(user_id.encode(), erased=erased)
        for user_id in (ALICE, BOB, CAROL)
        for erased in (False, True)
    }
    assert [key for key, value in ended.items() if value] == [
        (ALICE, False),
        (BOB, False),
        (BOB, True),
    ]


async def join(database: Database, room: str, user_id: UserId, membership: str = "join") -> None:
    """Store a membership; the room is made on demand."""
    await database.execute(
        "INSERT INTO rooms (room_row_id, room_id, version) VALUES (length($1), $1, '10')"
        " ON CONFLICT DO NOTHING",
        room,
    )
    await database.execute(
        "INSERT INTO memberships (room_row_id, user_id, membership, event_id, sender, position)"
        " VALUES (length($1), $2, $3, '$e', $2, 1)",
        room,
        user_id,
        membership,
    )


async def test_guests_are_found_by_the_rooms_they_are_joined_to(
    database: Database, table: AccountTable
) -> None:
    ended = UserId("@ended:hs1")
    for user_id in (ALICE, BOB, ended):
        await create(database, new_account(user_id, is_guest=True, password_hash=None))
    await create_accounts(database, CAROL)
    await deactivate(database, ended)
    one, other, third = (RoomId("!" + "r" * count) for count in (1, 2, 3))
    for user_id in (ALICE, CAROL, ended):
        await join(database, one, user_id)
    await join(database, other, ALICE, "leave")
    await join(database, other, BOB)
    await join(database, third, BOB)
    assert sorted(await table.load_guests()) == [(one, ALICE), (other, BOB), (third, BOB)]
    assert sorted(await table.load_guests({one, other})) == [(one, ALICE), (other, BOB)]
    assert await table.load_guests(set()) == []
