"""Clients on a homeserver in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from e2ee.client import Client
from tests.e2ee.fake_homeserver import FakeHomeserver

KEY = bytes(range(32))


@pytest.fixture
def server() -> FakeHomeserver:
    """Returns a homeserver for everyone."""
    return FakeHomeserver()


@pytest.fixture
async def enter(
    server: FakeHomeserver, tmp_path: Path
) -> AsyncIterator[Callable[[str], Awaitable[Client]]]:
    """Registers users; their clients are closed in the end."""
    clients: list[Client] = []

    async def register(name: str) -> Client:
        client = await Client.register(
            server.transport(), name, "secret", store_path=tmp_path / name, store_key=KEY
        )
        clients.append(client)
        return client

    yield register
    for client in clients:
        await client.close()
