"""A server with an application service, for all tests of a module."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop
from tests.homeserver.appservice_world import Bridge, bridged


@pytest.fixture(scope="module")
def module_database(postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop) -> str:
    """A database for one module; it goes with the cluster."""
    return background_loop.run(postgres_cluster.ensure_database(f"t_{secrets.token_hex(8)}"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bridge(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    """The application service; rate limits are on, and few requests go through them."""
    folder: Path = tmp_path_factory.mktemp("bridge")
    ten, three = ({"per_second": 0.001, "burst": burst} for burst in (10, 3))
    limits = {"enabled": True, "registration": ten, "login": ten, "messages": three}
    async with bridged(module_database, folder, {"rate_limits": limits}) as found:
        yield found
