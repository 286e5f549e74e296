"""Errors of the driver, as the rest of the server knows them."""

import asyncpg
import pytest

from homeserver.storage.database import DatabaseUnavailable, DataRefused, translated


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 11; another operation is in progress"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.DiskFullError("No space left on device"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_a_lost_session_is_the_worlds_fault(error: Exception) -> None:
    """Clients are told to come again: 503."""
    assert isinstance(translated(error), DatabaseUnavailable)


def test_bad_data_is_refused_and_other_errors_are_ours() -> None:
    assert isinstance(translated(asyncpg.UniqueViolationError("twice")), DataRefused)
    assert translated(ValueError()) is None
