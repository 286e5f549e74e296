"""The half of a server that joins and is joined: the engine and federation over PostgreSQL and TLS.

As `homeserver.app` assembles them; without clients, so without services.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from federation.events.ids import ServerName
from federation.ports import FederationSettings, StoredServerKey
from federation.transport.assembly import (
    FederationContext,
    InboundPorts,
    OutboundFederation,
    make_inbound,
)
from federation.transport.requests.dialer import Dialer, build_tls_context
from homeserver.api.http.router import Router
from homeserver.app.context import ServerContext
from homeserver.app.domains.federation import (
    make_net_requests,
    make_stored_outbound,
    room_ports,
)
from homeserver.app.engine import Engine, make_engine
from homeserver.clock import SystemClock
from homeserver.metrics import ServerMetrics
from homeserver.storage.database import Database
from homeserver.storage.federation.inbox import InboxTable
from homeserver.storage.federation.server_keys import ServerKeyTable
from homeserver.storage.migrate import migrate
from homeserver.storage.postgres_store import PostgresStore
from homeserver.supervisor import Supervisor
from tests.bench.joins.signed_room import key_of
from tests.federation.transport.memory_media import MemoryMedia
from tests.federation.transport.memory_outside import OpenGate
from tests.federation.transport.memory_ports import MemoryUsers, RecordingSink


@dataclass(frozen=True)
class Net:
    """How servers find and trust each other: addresses by name, and an authority's certificate."""

    addresses: Mapping[str, str]
    ca_path: str


@dataclass(frozen=True)
class RealServer:
    """One that runs; `handle` answers other servers."""

    engine: Engine
    database: Database
    outbound: OutboundFederation
    dispatch: Router[object]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Finds the endpoint."""
        match = self.dispatch.find(request.method, request.raw_path.partition("?")[0])
        response: web.StreamResponse = await match.value(request, match.params)  # type: ignore[operator]
        return response


@asynccontextmanager
async def real_server(
    name: ServerName, url: str, net: Net, keys: Sequence[StoredServerKey]
) -> AsyncIterator[RealServer]:
    """A server over an empty database, which knows the keys of others already."""
    database = await Database.open(url)
    await migrate(database)
    await ServerKeyTable(database).store_keys(keys)
    clock, metrics = SystemClock(), ServerMetrics()
    settings = FederationSettings(
        name, ca_paths=[net.ca_path], address_overrides=net.addresses, allow_private_addresses=True
    )
    supervisor = Supervisor(clock, metrics)
    transport = FederationContext(settings, key_of(name), clock, metrics, supervisor.spawn)
    dialer = Dialer(build_tls_context(settings.ca_paths, verify=True), allow_private=True)
    requests = make_net_requests(transport, database, dialer, dialer)
    engine = await make_engine(
        ServerContext(name, key_of(name), clock, metrics, os.urandom),
        PostgresStore(database),
        policies=requests.policies,
    )
    engine.fanout.follow(engine.committer)
    outbound = make_stored_outbound(transport, engine, database, requests)
    ports = InboundPorts(
        InboxTable(database), MemoryUsers(name), RecordingSink(), OpenGate(), MemoryMedia()
    )
    inbound = make_inbound(transport, outbound, room_ports(engine), ports)
    dispatch: Router[object] = Router()
    for method, template, handler in inbound.routes.table():
        dispatch.add(method, template, handler)
    committing = asyncio.ensure_future(engine.committer.run())
    try:
        yield RealServer(engine, database, outbound, dispatch)
    finally:
        await supervisor.stop()
        await engine.committer.close(10)
        await committing
        await engine.committer.disconnect()
        await dialer.close()
        await database.close()


@asynccontextmanager
async def listening(server: RealServer, certificate_path: str) -> AsyncIterator[int]:
    """Listens on the loopback interface; yields the port."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate_path)
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
