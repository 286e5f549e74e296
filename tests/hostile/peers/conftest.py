"""The real server, two hostile peers, and a room in which they all are: once for each module."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme

from federation.events.canonical_json import JsonObject
from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop
from tests.hostile.clients.running_server import Server, User, running
from tests.hostile.peers.scripted_peer import PeerRoom, ScriptedPeer, scripted_peer

_names = count()


@pytest.fixture(scope="module")
def module_database(postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop) -> str:
    """A database for one module; it goes with the cluster."""
    return background_loop.run(postgres_cluster.ensure_database(f"t_{secrets.token_hex(8)}"))


@dataclass(frozen=True)
class World:
    """The server, its user alice, and the peers."""

    server: Server
    alice: User
    evil: ScriptedPeer
    other: ScriptedPeer

    async def room(self, version: str = "12", **more: Any) -> str:
        """A public room of alice's."""
        wanted = {"preset": "public_chat", "room_version": version, **more}
        return await self.server.create_room(self.alice, **wanted)

    async def shared(self, version: str = "12") -> PeerRoom:
        """A room of alice's that the evil peer has joined."""
        return await self.evil.join(await self.room(version))

    async def seen(self, room_id: str) -> list[JsonObject]:
        """All events that alice can read in a room, newest first."""
        path = f"/rooms/{quote(room_id)}/messages?dir=b&limit=1000"
        found: list[JsonObject] = (await self.server.ok("GET", path, by=self.alice))["chunk"]
        return found

    async def seen_ids(self, room_id: str) -> set[str]:
        """Their IDs."""
        return {event["event_id"] for event in await self.seen(room_id)}

    async def state(self, room_id: str) -> dict[tuple[str, str], JsonObject]:
        """The current state, as alice sees it."""
        events = await self.server.ok("GET", f"/rooms/{quote(room_id)}/state", by=self.alice)
        return {(event["type"], event["state_key"]): event for event in events}

    async def kept(self, room_id: str) -> int:
        """How many events of a room are stored, seen by clients or not. Work on what earlier tests
        sent doesn't change it: each has its rooms."""
        found: int = await self.server.database.fetchval(
            "SELECT count(*) FROM events JOIN rooms USING (room_row_id) WHERE room_id = $1", room_id
        )
        return found

    async def is_up(self) -> None:
        """The server still answers both sides."""
        room_id = await self.room()
        await self.server.send(self.alice, room_id, f"up{next(_names)}")
        version = await self.evil.request("GET", "/_matrix/federation/v1/version")
        assert version.status == 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The running server and its peers. A module may add to the configuration (`TABLES`)."""
    authority = trustme.CA()
    async with AsyncExitStack() as stack:
        evil = await stack.enter_async_context(scripted_peer("evil.example", authority, 7))
        other = await stack.enter_async_context(scripted_peer("other.example", authority, 8))
        overrides = {peer.name: peer.address for peer in (evil, other)}
        tables = {"federation": {"address_overrides": overrides}}
        tables.update(getattr(request.module, "TABLES", {}))
        server = await stack.enter_async_context(running(module_database, authority, **tables))
        for peer in (evil, other):
            peer.target = server.tls_address
        yield World(server, await server.register("alice"), evil, other)
