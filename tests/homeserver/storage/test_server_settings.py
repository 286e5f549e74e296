"""Settings of the PostgreSQL server, as a connection of ours has them."""

import pytest

from homeserver.storage.database import Database
from homeserver.storage.server_settings import ServerSettings, load_server_settings
from tests.homeserver.storage.conftest import with_settings


async def settings(url: str, **session: str) -> ServerSettings:
    """Return the settings for sessions that begin with some of their own."""
    more = "&".join(f"{name}={value}" for name, value in session.items())
    database = await Database.open(with_settings(url, more), connections=1)
    try:
        return await load_server_settings(database)
    finally:
        await database.close()


async def test_the_server_of_these_tests_is_read(shared_database_url: str) -> None:
    database = await Database.open(shared_database_url, connections=1)
    number = await database.fetchval("SHOW server_version")
    await database.close()
    found = await settings(shared_database_url, synchronous_commit="on")
    assert found == ServerSettings(int(number.partition(".")[0]), "UTF8", "off", "on", True)


@pytest.mark.parametrize("value", ["off", "local"])
async def test_a_setting_is_that_of_the_session(shared_database_url: str, value: str) -> None:
    found = await settings(shared_database_url, synchronous_commit=value)
    assert found.synchronous_commit == value


async def test_a_role_without_a_schema_may_not_create_tables(shared_database_url: str) -> None:
    assert (await settings(shared_database_url, search_path="nowhere")).may_create is False
