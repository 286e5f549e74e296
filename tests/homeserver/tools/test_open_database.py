"""A server's database as a tool opens it: embedded or not, running or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeserver.config import Config, DatabaseSettings
from homeserver.storage.database import DatabaseFailing
from homeserver.storage.migrate import known_migrations
from homeserver.tools.open_database import read_only, writable
from local_postgres import EmbeddedError


async def test_reading_changes_nothing(postgres_url: str) -> None:
    config = Config(server_name="hs1", database=DatabaseSettings(url=postgres_url))
    async with read_only(config) as database:
        assert await database.fetchval("SELECT 1") == 1
        with pytest.raises(DatabaseFailing):
            await database.execute("CREATE TABLE t (x int)")


async def test_the_schema_is_up_to_date_for_changes(postgres_url: str) -> None:
    config = Config(server_name="hs1", database=DatabaseSettings(url=postgres_url))
    async with writable(config) as database:
        done = await database.fetchval("SELECT count(*) FROM schema_migrations")
    assert done == len(known_migrations())


async def test_an_embedded_database_is_made_for_changes_but_not_for_reading(tmp_path: Path) -> None:
    config = Config(server_name="hs1", data_dir=str(tmp_path))
    with pytest.raises(EmbeddedError, match="there is no database"):
        async with read_only(config):
            pass
    async with writable(config) as database:
        await database.execute("INSERT INTO registration_tokens (token) VALUES ('t')")
        async with read_only(config) as beside:  # it runs: it is used as it is
            assert await beside.fetchval("SELECT token FROM registration_tokens") == "t"
    async with read_only(config) as database:  # started, and stopped again
        assert await database.fetchval("SELECT token FROM registration_tokens") == "t"
