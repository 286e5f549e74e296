"""One server for each module: starting one takes longer than most tests do."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
import trustme

from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop, drop_database
from tests.hostile.clients.running_server import Server, User, running


@pytest.fixture(scope="module")
def module_database(
    postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop, request: object
) -> str:
    """A database for one module; it goes with the cluster."""
    return background_loop.run(postgres_cluster.ensure_database(f"t_{secrets.token_hex(8)}"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(module_database: str) -> AsyncIterator[Server]:
    """The running server."""
    async with running(module_database, trustme.CA()) as found:
        yield found


@dataclass(frozen=True)
class Scene:
    """Two users of this server, a room of the first, and an event in it."""

    server: Server
    alice: User
    bob: User
    room_id: str
    event_id: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(server: Server) -> Scene:
    """A room with something in it."""
    alice, bob = await server.register("alice"), await server.register("bob")
    room_id = await server.create_room(alice, preset="public_chat", name="Room")
    event_id = await server.send(alice, room_id, "first")
    return Scene(server, alice, bob, room_id, event_id)


__all__ = ["drop_database"]
