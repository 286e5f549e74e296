"""A second database, for tests with two servers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from local_postgres import EmbeddedCluster
from tests.conftest import drop_database


@pytest.fixture
async def second_postgres_url(postgres_cluster: EmbeddedCluster) -> AsyncIterator[str]:
    """Yields the address of another empty database."""
    name = f"t_{secrets.token_hex(8)}"
    yield await postgres_cluster.ensure_database(name)
    await drop_database(postgres_cluster, name)
