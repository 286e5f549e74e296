"""A database for tests of devices: made and migrated once, emptied before each test.

To make a database for each of many small tests would take most of their time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from tests.homeserver.device_world import OWN_DEVICES

_TABLES = (
    "device_keys",
    "claimed_keys",
    "one_time_keys",
    "fallback_keys",
    "cross_signing_keys",
    "key_signatures",
    "device_list_changes",
    "device_list_touched",
    "remote_device_lists",
    "remote_devices",
    "device_list_resyncs",
    "to_device_messages",
    "to_device_transactions",
    "remote_to_device_seen",
    "remote_edus",
    "receipts",
    "account_data",
    "push_rules",
    "filters",
    "state_changes",
    "rooms",
)

_INSERT_DEVICE = """
INSERT INTO devices (user_id, device_id, display_name, created_ms, last_seen_ms, last_seen_address)
VALUES ($1, $2, $3, 0, 0, '') ON CONFLICT DO NOTHING
"""


@pytest.fixture(scope="session")
def device_database_url(postgres_cluster: Any, background_loop: Any) -> str:
    """Return the address of one migrated database for all tests of devices of this process, with
    the devices of users of ours."""

    async def make() -> str:
        url: str = await postgres_cluster.ensure_database("t_devices")
        database = await Database.open(url, connections=1)
        await migrate(database)
        async with database.connection() as connection:
            await connection.executemany(_INSERT_DEVICE, OWN_DEVICES)
        await database.close()
        return url

    made: str = background_loop.run(make())
    return made


@pytest.fixture
async def device_database(device_database_url: str) -> AsyncIterator[Database]:
    """Yield that database, its tables empty."""
    database = await Database.open(device_database_url, connections=4)
    async with database.transaction() as connection:
        await connection.execute(";".join(f"DELETE FROM {table}" for table in _TABLES))
    yield database
    await database.close()
