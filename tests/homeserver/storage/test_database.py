"""What the driver's errors mean: whether to try again, and whether the outcome is known."""

import asyncio

import asyncpg
import pytest

from homeserver import limits
from homeserver.storage.database import (
    Database,
    DatabaseFailing,
    DatabaseUnavailable,
    DataRefused,
    translated,
)

_PID = "SELECT pg_backend_pid()"


async def raised(url: str, sql: str) -> Exception:
    """What a statement ends with."""
    database = await Database.open(url, connections=1)
    try:
        with pytest.raises((DatabaseUnavailable, DataRefused)) as error:
            async with database.connection() as connection:
                await connection.execute(sql)
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        return error.value
    finally:
        await database.close()


def raising(code: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("53100", DatabaseFailing),  # disk full
        ("53200", DatabaseFailing),  # out of memory
        ("58030", DatabaseFailing),  # input or output error
        ("57014", DatabaseFailing),  # cancelled
        ("25006", DatabaseFailing),  # reads only
        ("40P01", DatabaseFailing),  # deadlock
        ("23505", DataRefused),
        ("22021", DataRefused),
    ],
)
async def test_each_error_of_the_server_says_whether_to_try_again(
    shared_database_url: str, code: str, kind: type[Exception]
) -> None:
    assert type(await raised(shared_database_url, raising(code))) is kind


async def test_single_statements_take_a_connection_and_give_it_back(
    shared_database_url: str,
) -> None:
    database = await Database.open(shared_database_url, connections=1)
    numbers = "SELECT * FROM generate_series(1, $1::integer) AS number"
    for count in (0, 2):
        assert [row["number"] for row in await database.fetch(numbers, count)] == [1, 2][:count]
    assert await database.fetchrow(numbers, 0) is None
    assert tuple(await database.fetchrow("SELECT $1::text, 2", "a") or ()) == ("a", 2)
    assert await database.fetchval(numbers, 0) is None
    assert await database.fetchval("SELECT $1::bigint", 2**62) == 2**62
    assert await database.execute("SELECT FROM generate_series(1, $1::integer)", 3) == "SELECT 3"
    for method in (database.fetch, database.fetchrow, database.fetchval, database.execute):
        with pytest.raises(DataRefused):
            await method("SELECT $1::text", "a\0b")
    assert await database.fetchval("SELECT 1") == 1
    await database.close()


def test_an_error_that_ends_the_session_leaves_the_outcome_open() -> None:
    fields = {"C": "53100", "M": "x", "S": "PANIC", "V": "PANIC"}
    error = asyncpg.PostgresError.new(fields)
    assert isinstance(error, asyncpg.DiskFullError)
    assert type(translated(error)) is DatabaseUnavailable


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("got result for unknown protocol state 3"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_what_the_driver_meets_on_a_dying_connection_is_an_outage(error: Exception) -> None:
    assert type(translated(error)) is DatabaseUnavailable


def test_bad_data_is_refused() -> None:
    assert isinstance(translated(asyncpg.UniqueViolationError("twice")), DataRefused)


def test_an_error_of_ours_is_not_the_databases() -> None:
    assert translated(ValueError("x")) is None


async def test_an_unused_connection_is_closed_after_some_time(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DATABASE_IDLE_S", 0.01)
    database = await Database.open(shared_database_url, connections=2)
    try:
        async with database.connection() as one, database.connection() as other:
            pids = {await connection.fetchval(_PID) for connection in (one, other)}
        assert len(pids) == 2
        async with asyncio.timeout(60):
            while database._pool.get_size() > 1:
                await asyncio.sleep(0.01)
        async with database.connection() as one, database.connection() as other:
            again = {await connection.fetchval(_PID) for connection in (one, other)}
        assert len(again & pids) == 1, "one connection stays, for the next request"
    finally:
        await database.close()
