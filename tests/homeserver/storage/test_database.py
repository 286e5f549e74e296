"""What the driver's errors mean: whether to try again, and whether the outcome is known."""

import asyncpg
import pytest

from homeserver.storage.database import (
    Database,
    DatabaseFailing,
    DatabaseUnavailable,
    DataRefused,
    translated,
)


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
        ("23505", DataRefused),
        ("22021", DataRefused),
    ],
)
async def test_each_error_of_the_server_says_whether_to_try_again(
    shared_database_url: str, code: str, kind: type[Exception]
) -> None:
    assert type(await raised(shared_database_url, raising(code))) is kind


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
