"""Servers in this process that federate over real TLS on the loopback interface.

A `Loopback` is the net: one certificate authority, and a table of names. A `Peer` is a server with
everything of `federation.transport` over ports in memory. `Peer.routes` can be overlaid with lies.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from urllib.parse import unquote

import trustme
from aiohttp import web

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName, UserId
from federation.events.signing import SigningKey
from federation.ports import FederationSettings
from federation.transport.assembly import (
    FederationContext,
    InboundPorts,
    RoomPorts,
    make_inbound,
    make_outbound,
    make_outbox,
    make_requests,
)
from federation.transport.inbound.transactions import Transaction, parse_transaction
from federation.transport.joining.joining import MembershipRequest
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.dialer import Dialer
from federation.transport.requests.resolve import ServerResolver, SystemNames
from federation.transport.requests.well_known import WellKnown
from tests.federation.transport.memory_listings import MemoryListings
from tests.federation.transport.memory_media import MemoryMedia
from tests.federation.transport.memory_outside import MemoryOutside, OpenGate
from tests.federation.transport.memory_ports import (
    CountingMetrics,
    JumpingClock,
    MemoryDestinations,
    MemoryFeed,
    MemoryInbox,
    MemoryKeys,
    MemoryUsers,
    RecordingSink,
    Tasks,
)
from tests.federation.transport.memory_rooms import MemoryRooms

Lie = Callable[[web.BaseRequest, Mapping[str, str]], Awaitable[web.StreamResponse]]


@cache
def authority() -> trustme.CA:
    """Returns the authority of the test process, since keys are costly to make."""
    return trustme.CA()


@cache
def client_tls() -> ssl.SSLContext:
    """Trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


@cache
def server_tls(name: str) -> ssl.SSLContext:
    """Has a certificate for one name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert(name).configure_cert(context)
    return context


def transaction(content: JsonObject) -> Transaction:
    """Returns a transaction as `Inbox.receive` gets it."""
    return parse_transaction(canonical_json.encode_lenient(content))


class Peer:
    """One server. Make it inside a running loop."""

    def __init__(self, name: str, net: Loopback, *, key_byte: int = 0) -> None:
        self.name = ServerName(name)
        self.net, self.clock, self.tasks = net, net.clock, net.tasks
        self.key = SigningKey.generate(bytes([key_byte or len(net.peers) + 1]) * 32, "k1")
        settings = FederationSettings(
            self.name, address_overrides=net.addresses, trusted_key_servers=net.notaries
        )
        self.metrics = CountingMetrics()
        self.context = FederationContext(
            settings, self.key, self.clock, self.metrics, self.tasks.spawn
        )
        self.dialer = Dialer(net.client_tls)
        self.media_dialer = Dialer(net.client_tls, allow_private=net.is_private)
        self.names = SystemNames(self.clock)
        well_known = WellKnown(self.dialer, self.names.addresses, self.clock)
        self.resolver = ServerResolver(self.names, well_known, net.addresses)
        self.neighbours: set[ServerName] = set()
        self.backoffs = Backoffs(self.clock, lambda: 0.5)
        self.requests = make_requests(
            self.context,
            self.backoffs,
            self._is_neighbour,
            dialer=self.dialer,
            media_dialer=self.media_dialer,
            resolver=self.resolver,
            lookup=net.lookup,
        )
        self.client, self.policies = self.requests.client, self.requests.policies
        self.rooms = MemoryRooms(self.name, self.key, self.clock)
        self.outside, self.gate = MemoryOutside(), OpenGate()
        self.keys, self.waiting = MemoryKeys(), MemoryInbox()
        self.sink, self.users = RecordingSink(), MemoryUsers(self.name)
        self.media, self.listings = MemoryMedia(), MemoryListings()
        self.feed, self.destinations = MemoryFeed(), MemoryDestinations()
        self._assemble()
        self.lies: dict[str, Lie] = {}

    async def _is_neighbour(self, server: ServerName) -> bool:
        return server in self.neighbours

    def _assemble(self) -> None:
        rooms = RoomPorts(self.rooms, self.rooms, self.outside)
        outbound = make_outbound(self.context, self.requests, rooms, self.keys)
        self.keyring, self.signatures = outbound.keyring, outbound.signatures
        self.fetcher, self.joining = outbound.fetcher, outbound.joining
        self.queries, self.backfiller = outbound.queries, outbound.backfiller
        self.arrivals = outbound.arrivals
        self.outbox = make_outbox(self.context, self.requests, self.feed, self.destinations)
        ports = InboundPorts(
            self.waiting,
            self.users,
            self.sink,
            self.gate,
            self.media,
            listings=self.listings,
        )
        inbound = make_inbound(self.context, outbound, rooms, ports)
        self.inbox, self.filler = inbound.inbox, inbound.filler
        self.recommendations = inbound.recommendations
        self.routes = [
            (method, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]*)", path) + r"\Z"), handler)
            for method, path, handler in inbound.routes.table()
        ]

    def user(self, localpart: str) -> UserId:
        """Returns the ID of a user of this server."""
        return UserId(f"@{localpart}:{self.name}")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Dispatches as the homeserver does; a lie stands in for the route whose name it has."""
        path = request.raw_path.partition("?")[0]
        for part, lie in self.lies.items():
            if part in path:
                return await lie(request, {})
        for method, pattern, handler in self.routes:
            found = pattern.match(path)
            if found is not None and method == request.method:
                params = {name: unquote(value) for name, value in found.groupdict().items()}
                return await handler(request, params)
        return web.json_response({"errcode": "M_UNRECOGNIZED", "error": path}, status=404)

    def restart(self) -> None:
        """Forgets what isn't stored."""
        self._assemble()

    async def start(self) -> None:
        """Listens, and enters the name into the net's table."""
        self.runner = web.ServerRunner(web.Server(self.handle))
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=self.net.server_tls(self.name))
        await site.start()
        port = self.runner.addresses[0][1]
        self.net.addresses[self.name] = f"127.0.0.1:{port}"

    async def join(self, other: Peer, room_id: RoomId, localpart: str = "bob") -> UserId:
        """Joins a user of this server through another."""
        user = self.user(localpart)
        await self.joining.join(MembershipRequest(room_id, user, {}), [other.name])
        return user

    async def close(self) -> None:
        """Stops listening and closes connections."""
        await self.dialer.close()
        await self.media_dialer.close()
        await self.runner.cleanup()


class Loopback:
    """The net. `is_private`: media may be fetched from private addresses, so from web servers that
    have no override."""

    def __init__(self, *, is_private: bool = False) -> None:
        self.is_private = is_private
        self.clock = JumpingClock()
        self.tasks = Tasks()
        self.peers: dict[str, Peer] = {}
        self.addresses: dict[str, str] = {}
        self.notaries: list[ServerName] = []
        self.client_tls = client_tls()

    def server_tls(self, name: str) -> ssl.SSLContext:
        """Returns a certificate for one name."""
        return server_tls(name)

    async def lookup(self, host: str) -> tuple[str, ...]:
        """Returns the addresses of a web server."""
        if host not in self.peers:
            raise OSError(f"no such host: {host}")
        return ("127.0.0.1",)

    async def peer(self, name: str, *, key_byte: int = 0) -> Peer:
        """Returns a new server, listening."""
        peer = Peer(name, self, key_byte=key_byte)
        self.peers[name] = peer
        await peer.start()
        return peer


@asynccontextmanager
async def loopback(*, is_private: bool = False) -> AsyncIterator[Loopback]:
    """Yields a net whose servers and tasks end with the block."""
    net = Loopback(is_private=is_private)
    try:
        yield net
    finally:
        await net.tasks.stop()
        for peer in net.peers.values():
            await peer.close()
