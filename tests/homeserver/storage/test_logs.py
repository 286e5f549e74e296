"""The log's row, in the database: who owns it, and who can still move it."""

from __future__ import annotations

import asyncpg
import pytest

from homeserver import limits
from homeserver.storage import logs
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.logs import Epoch, LogTable

WITHIN_S = 60  # far more than a session takes to end

CUT_OFF = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
)
"""The errors of a connection that was cut off, by what it was doing at that moment."""


async def test_a_new_owner_fences_the_former_one(database: Database) -> None:
    table = LogTable(database)
    assert not await table.has_history()
    first = await table.take_over("a")
    assert (first.epoch, first.position, list(first.epochs)) == (1, 0, [Epoch("a", 0)])
    async with database.connection() as connection:
        assert await logs.move(connection, epoch=1, old=0, new=4)
        second = await table.take_over("b")
        assert (second.epoch, second.position) == (2, 4)
        assert not await logs.move(connection, epoch=1, old=4, new=5), "it owns it no more"
        assert not await logs.move(connection, epoch=2, old=3, new=5), "it isn't there"
        assert await logs.position_once_settled(connection, 1) is None
        assert await logs.position_once_settled(connection, 2) == 4
    assert await table.load_epoch() == 2
    assert await table.has_history()


async def test_only_the_newest_epochs_are_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EPOCHS_KEPT", 2)
    table = LogTable(database)
    owned = [await table.take_over(name) for name in "abc"]
    assert [one.history for one in owned[-1].epochs] == ["b", "c"]


async def test_row_numbers_are_given_out_once(database: Database) -> None:
    blocks = [await LogTable(database).take_row_ids() for _ in range(3)]
    numbers = [number for block in blocks for number in block]
    assert len(set(numbers)) == len(numbers)


async def test_a_lost_session_is_ended_and_no_other(database: Database) -> None:
    lost = await database.dedicated()
    async with database.connection() as connection:
        pooled = connection.get_server_pid()
        await logs.end_session(connection, lost.get_server_pid(), WITHIN_S)
        with pytest.raises(CUT_OFF):
            await lost.fetchval("SELECT 1")
        await logs.end_session(connection, lost.get_server_pid(), WITHIN_S)
        # Neither its own session, nor one that isn't the log's.
        async with database.connection() as other:
            await logs.end_session(other, pooled, WITHIN_S)
            await logs.end_session(other, other.get_server_pid(), WITHIN_S)
            assert await other.fetchval("SELECT 1") == 1
        assert await connection.fetchval("SELECT 1") == 1
    lost.terminate()


async def test_a_session_that_does_not_end_is_an_unavailable_database(database: Database) -> None:
    class Stuck:
        async def fetchval(self, *_: object) -> bool:
            return False

    with pytest.raises(DatabaseUnavailable):
        await logs.end_session(Stuck(), 1, 1)
