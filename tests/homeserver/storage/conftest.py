"""A database with our tables, all of them empty."""

from collections.abc import AsyncIterator

import pytest

from homeserver.storage.database import Database
from tests.homeserver.conftest import EMPTY_TABLES

WITHOUT_INDEXES = "enable_indexscan=off&enable_indexonlyscan=off&enable_bitmapscan=off"
"""Rows come in the order of their storage, so that a statement that doesn't sort is found out."""


def with_settings(url: str, settings: str) -> str:
    """Return a database's address whose sessions begin with some settings."""
    return f"{url}{'&' if '?' in url else '?'}{settings}"


@pytest.fixture
async def database(shared_database_url: str) -> AsyncIterator[Database]:
    """Yield the database that all tests of this process share, emptied."""
    url = with_settings(shared_database_url, WITHOUT_INDEXES)
    database = await Database.open(url, connections=3)
    await database.execute(EMPTY_TABLES)
    yield database
    await database.close()
