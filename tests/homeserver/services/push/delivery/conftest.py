"""A database with our tables, all of them empty."""

from collections.abc import AsyncIterator

import pytest

from homeserver.storage.database import Database
from tests.homeserver.conftest import EMPTY_TABLES


@pytest.fixture
async def database(shared_database_url: str) -> AsyncIterator[Database]:
    """Yield the database that all tests of this process share, emptied."""
    database = await Database.open(shared_database_url, connections=3)
    await database.execute(EMPTY_TABLES)
    yield database
    await database.close()
