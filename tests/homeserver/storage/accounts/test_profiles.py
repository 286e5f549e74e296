"""Profiles in the database, and their bound."""

import pytest

from homeserver.storage.accounts import profiles
from homeserver.storage.accounts.profiles import ProfileTable
from homeserver.storage.database import Database
from tests.homeserver.storage.accounts.account_rows import (
    ALICE,
    BOB,
    CAROL,
    create_accounts,
    deactivate,
)

NAME = {"displayname": b'"name"'}  # 11 and 6 bytes


@pytest.fixture
async def table(database: Database) -> ProfileTable:
    """Return the table with Alice's and Bob's profiles."""
    await create_accounts(database, ALICE, BOB)
    return ProfileTable(database)


async def test_a_profile_is_that_of_an_active_account(
    database: Database, table: ProfileTable
) -> None:
    assert await table.load(ALICE) == NAME
    assert await table.load(CAROL) is None
    await deactivate(database, ALICE)
    assert await table.load(ALICE) is None
    assert await table.load(BOB) == NAME


async def test_an_account_without_keys_has_an_empty_profile(table: ProfileTable) -> None:
    await table.delete(ALICE, "displayname")
    await table.delete(ALICE, "displayname")
    assert await table.load(ALICE) == {}
    assert await table.load(BOB) == NAME


async def test_keys_are_set_and_removed_one_by_one(table: ProfileTable) -> None:
    assert await table.save(ALICE, "displayname", b'"\\u0000\xff"', bytes_max=100)
    assert await table.save(ALICE, "org.x.y", b"{}", bytes_max=100)
    assert await table.load(ALICE) == {"displayname": b'"\\u0000\xff"', "org.x.y": b"{}"}
    await table.delete(ALICE, "displayname")
    assert await table.load(ALICE) == {"org.x.y": b"{}"}
    assert await table.load(BOB) == NAME


async def test_keys_and_values_together_are_bounded(table: ProfileTable) -> None:
    size = len("displayname") + len(NAME["displayname"])
    assert not await table.save(ALICE, "ü", b"123", bytes_max=size + 4)
    assert await table.load(ALICE) == NAME
    assert await table.save(ALICE, "ü", b"123", bytes_max=size + 5)
    assert await table.save(ALICE, "ü", b"456", bytes_max=size + 5), "the former value goes"
    assert not await table.save(ALICE, "ü", b"4567", bytes_max=size + 5)
    assert await table.load(ALICE) == {**NAME, "ü": b"456"}


async def test_a_whole_profile_is_deleted_for_one_user(
    database: Database, table: ProfileTable
) -> None:
    await table.save(ALICE, "org.x.y", b"{}", bytes_max=100)
    async with database.transaction() as connection:
        await profiles.delete_all(connection, ALICE)
    assert (await table.load(ALICE), await table.load(BOB)) == ({}, NAME)
