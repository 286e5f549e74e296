"""Fixtures for tests of the homeserver."""

import secrets
from collections.abc import Iterator

import pytest

from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop, drop_database

EMPTY_TABLES = """
DO $$ BEGIN
    EXECUTE (
        SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') FROM pg_tables
        WHERE schemaname = current_schema() AND tablename <> 'schema_migrations'
    );
END $$
"""


@pytest.fixture(scope="session")
def shared_database_url(
    background_loop: BackgroundLoop, postgres_cluster: EmbeddedCluster
) -> Iterator[str]:
    """Yield a database with our tables for all tests of this process that empty it themselves:
    making one for each test takes far longer than most tests do."""
    name = f"shared_{secrets.token_hex(8)}"
    url = background_loop.run(postgres_cluster.ensure_database(name))
    background_loop.run(_migrated(url))
    yield url
    background_loop.run(drop_database(postgres_cluster, name))


async def _migrated(url: str) -> None:
    database = await Database.open(url, connections=1)
    await migrate(database)
    await database.close()


@pytest.fixture(scope="session")
def accounts_url(postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop) -> str:
    """The address of one database for all tests of accounts; `account_server` empties it."""
    return background_loop.run(postgres_cluster.ensure_database("accounts_tests"))
