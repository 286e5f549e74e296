"""A database for tests of single sign-on."""

from collections.abc import AsyncIterator

import pytest_asyncio

from homeserver.storage.database import Database
from tests.homeserver.conftest import EMPTY_TABLES


@pytest_asyncio.fixture
async def database(shared_database_url: str) -> AsyncIterator[Database]:
    """Yield the database that all tests of this process share, emptied."""
    opened = await Database.open(shared_database_url, connections=2)
    await opened.execute(EMPTY_TABLES)
    yield opened
    await opened.close()
