"""Marks of accounts, and the announcements of their changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from federation.events.ids import UserId
from homeserver.storage.accounts.moderation import AccountMark, ModerationTable, Standing, announce
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.migrate import migrate
from tests.homeserver.storage.accounts.account_rows import ALICE, BOB, create_accounts, deactivate


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    found = await Database.open(postgres_url, connections=3)
    await migrate(found)
    await create_accounts(found, ALICE, BOB)
    yield found
    await found.close()


async def test_each_mark_is_set_by_itself(database: Database) -> None:
    table = ModerationTable(database)
    assert await table.load(ALICE) == Standing(False, False, False)
    for mark, standing in (
        (AccountMark.LOCKED, Standing(True, False, False)),
        (AccountMark.SUSPENDED, Standing(False, True, False)),
        (AccountMark.ADMIN, Standing(False, False, True)),
    ):
        assert await table.set(ALICE, mark, True)
        assert await table.load(ALICE) == standing
        assert await table.load(BOB) == Standing(False, False, False)
        assert await table.set(ALICE, mark, False)
    assert await table.load(ALICE) == Standing(False, False, False)


async def test_a_deactivated_account_has_no_marks(database: Database) -> None:
    table = ModerationTable(database)
    await deactivate(database, ALICE)
    assert await table.load(ALICE) is None
    assert not await table.set(ALICE, AccountMark.LOCKED, True)
    assert not await table.set(UserId("@nobody:hs1"), AccountMark.LOCKED, True)


async def test_ended_accounts_are_unfinished_until_devices_and_departures_are_gone(
    database: Database,
) -> None:
    table = ModerationTable(database)
    assert await table.load_unfinished() == []
    await deactivate(database, BOB)
    assert await table.load_unfinished() == [BOB]
    await database.execute("DELETE FROM devices")
    assert await table.load_unfinished() == [BOB]
    await database.execute("DELETE FROM departures")
    assert await table.load_unfinished() == []


async def test_a_change_is_told_at_its_commit_to_every_listener(database: Database) -> None:
    table = ModerationTable(database)
    told: asyncio.Queue[UserId] = asyncio.Queue()
    async with table.listening(told.put_nowait) as check:
        await table.set(BOB, AccountMark.LOCKED, True)
        assert await told.get() == BOB
        async with database.transaction() as connection:
            await announce(connection, ALICE)
            await check()
            assert told.empty(), "nothing is told before the commit"
        assert await told.get() == ALICE
        await table.set(UserId("@nobody:hs1"), AccountMark.LOCKED, True)
        await check()
        assert told.empty()
    await table.set(BOB, AccountMark.LOCKED, False)
    assert told.empty()


async def test_a_lost_connection_is_noticed(database: Database) -> None:
    async def listen() -> None:
        async with ModerationTable(database).listening(lambda user_id: None) as check:
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'freehold accounts'"
            )
            await check()

    with pytest.raises(DatabaseUnavailable):
        await listen()
    assert await ModerationTable(database).load(ALICE) is not None
