"""One simulated server: the real graph, engine and transport over a disk in memory.

`crash` ends all of its tasks at once, wherever they are; what was not committed is forgotten.
`start_up` takes up what the disk has.
"""

from __future__ import annotations

import asyncio
import random
import re
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import orjson
from aiohttp import web

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.event import load_event
from federation.events.ids import EventId, RoomId, ServerName
from federation.events.room_versions import room_version
from federation.events.signing import SigningKey
from federation.ports import FederationSettings
from federation.transport.assembly import (
    FederationContext,
    InboundPorts,
    make_inbound,
    make_outbound,
    make_outbox,
    make_requests,
)
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.dialer import HttpResponse, Outgoing
from homeserver.app.context import ServerContext
from homeserver.app.domains.federation import room_ports
from homeserver.app.domains.rooms import make_remote_memberships
from homeserver.app.engine import Engine, make_engine
from homeserver.engine.followers.outbound_feed import FeedDestinations, LogFeed
from homeserver.engine.local.policy_signer import NoPolicyServer
from homeserver.engine.log.log_connection import LogLost
from homeserver.metrics import ServerMetrics
from homeserver.storage.database import DatabaseUnavailable, DataRefused
from tests.federation.transport.memory_media import MemoryMedia
from tests.federation.transport.memory_outside import OpenGate
from tests.federation.transport.memory_ports import (
    MemoryDestinations,
    MemoryInbox,
    MemoryKeys,
    MemoryUsers,
    RecordingSink,
)
from tests.simulation.memory_store import MemoryStore
from tests.simulation.memory_tables import Tables
from tests.simulation.network import CarriedRequest, Network, NetworkDialer

Lie = Callable[[JsonObject], JsonObject | None]
"""Makes of an honest answer what is sent in its place; None: as it is."""

EPOCH_MS = 1_700_000_000_000
THE_WORLDS = (DatabaseUnavailable, DataRefused, MatrixError, LogLost)
"""Failures that a store which is away explains; others are bugs."""


def described(error: BaseException) -> str:
    """What went wrong, and where."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(frames))
    return f"{type(error).__name__}: {error} at {places}"


async def no_lookup(host: str) -> tuple[str, ...]:
    """There are no hosts but servers."""
    raise OSError(f"no such host: {host}")


class SkewedClock:
    """The loop's time, with an error of this server's own."""

    def __init__(self, skew_ms: int) -> None:
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return EPOCH_MS + self.skew_ms + int(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


@dataclass
class Disk:
    """What outlives the process."""

    tables: Tables = field(default_factory=Tables)
    inbox: MemoryInbox = field(default_factory=MemoryInbox)
    destinations: MemoryDestinations = field(default_factory=MemoryDestinations)
    keys: MemoryKeys = field(default_factory=MemoryKeys)


class Process:
    """One run of a server: its tasks."""

    def __init__(self, name: str, on_bug: Callable[[str], None]) -> None:
        self._name, self._on_bug = name, on_bug
        self.is_dead = False
        self._tasks: dict[asyncio.Task[None], None] = {}

    def spawn(self, name: str, factory: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As the supervisor's."""
        self.start(name, self._keep_running(name, factory))

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Runs a task until it ends or the process dies."""
        if self.is_dead:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name} {name}")
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, THE_WORLDS) and not self.is_dead:
            self._on_bug(f"{task.get_name()}: {described(error)}")

    async def _keep_running(
        self, name: str, factory: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        while True:
            try:
                return await factory()
            except (DatabaseUnavailable, DataRefused, MatrixError):
                await asyncio.sleep(1)

    async def die(self) -> None:
        """Ends all tasks, at once."""
        self.is_dead = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SimulatedServer:
    """One server by its name, through its restarts."""

    def __init__(
        self, name: str, network: Network, rng: random.Random, on_bug: Callable[[str], None]
    ) -> None:
        self.name = ServerName(name)
        self.network, self.rng, self._on_bug = network, rng, on_bug
        self.key = SigningKey.generate(rng.randbytes(32), "k1")
        self.clock = SkewedClock(0)
        self.disk = Disk()
        self.metrics = ServerMetrics()
        self.is_up = False
        self.store_fails = 0.0
        self.store_failures = 0
        self.lies: dict[str, Lie] = {}
        self.boots = 0
        network.hosts[self.name] = self

    # Life

    async def start_up(self) -> None:
        """Boots from the disk."""
        self.boots += 1
        self.process = Process(f"{self.name}#{self.boots}", self._on_bug)
        process = self.process

        async def pause() -> None:
            if self.rng.random() < 0.3:
                await asyncio.sleep(self.rng.random() * 0.01)
            if process.is_dead:
                raise asyncio.CancelledError

        self.store = MemoryStore(self.disk.tables, pause)
        context = ServerContext(self.name, self.key, self.clock, self.metrics, self.rng.randbytes)
        self.engine: Engine = await make_engine(context, self.store, policies=NoPolicyServer())
        self.engine.committer.fault = self._store_fault
        self._make_federation()
        self.engine.fanout.follow(self.engine.committer)
        process.spawn("log", self.engine.committer.run)
        process.spawn("rechecks", self.engine.remote_event_writer.rechecks.run)
        process.spawn("head merges", self.engine.head_merges.run)
        process.spawn("feed", self.feed.run)
        self.is_up = True
        await self.inbox.start()
        await self.outbox.start()

    async def _store_fault(self, when: str) -> None:
        if self.rng.random() < self.store_fails:
            self.store_failures += 1
            raise DatabaseUnavailable(f"{when} the commit")

    async def crash(self) -> None:
        """As by `kill -9`."""
        self.is_up = False
        await self.process.die()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """`Host.start`."""
        self.process.start(name, work)

    def has_staged(self) -> bool:
        """Is there work that isn't committed, and that a crash would undo?"""
        rooms = self.disk.tables.rooms
        hot = [self.engine.rooms.hot(RoomId(room_id)) for room_id in rooms]
        return any(room is not None and room.staged is not room.view for room in hot)

    def children_of_gaps(self, room_id: RoomId) -> list[EventId]:
        """The placed events of a room some of whose parents are missing, as the disk has them."""
        tables = self.disk.tables
        if room_id not in tables.rooms or not tables.rooms[room_id]["version"]:
            return []  # at most an invite
        row_id = tables.rooms[room_id]["room_row_id"]
        missing = {event_id for number, event_id in tables.gaps if number == row_id}
        version = room_version(tables.rooms[room_id]["version"])
        found = []
        for event_id, row in tables.events.items():
            if missing and row["room_row_id"] == row_id and row["live_index"] is not None:
                event = load_event(row["json"], version, EventId(event_id))
                if not missing.isdisjoint(event.prev_events):
                    found.append(event.event_id)
        return found

    # Parts

    async def _is_neighbour(self, server: ServerName) -> bool:
        return self.backoffs.of(server) is None

    def _make_federation(self) -> None:
        context = FederationContext(
            FederationSettings(self.name), self.key, self.clock, self.metrics, self.process.spawn
        )
        self.backoffs = Backoffs(self.clock, self.rng.random)
        dialer = cast(Any, NetworkDialer(self.network, self.name))
        requests = make_requests(
            context,
            self.backoffs,
            self._is_neighbour,
            dialer=dialer,
            media_dialer=dialer,
            resolver=cast(Any, self.network),
            lookup=no_lookup,
        )
        rooms = room_ports(self.engine)
        outbound = make_outbound(context, requests, rooms, self.disk.keys)
        self.client, self.fetcher = requests.client, outbound.fetcher
        self.joining, self.backfiller = outbound.joining, outbound.backfiller
        self.remote_rooms = make_remote_memberships(self.engine, outbound)
        self.feed = LogFeed(
            self.store,
            self.engine.committer,
            self.engine.rooms,
            server_name=self.name,
            device_list_edus=NoDeviceLists(),
        )
        destinations = FeedDestinations(
            self.store.owed, self.disk.destinations, self.engine.committer, self.feed
        )
        self.outbox = make_outbox(context, requests, self.feed, destinations)
        ports = InboundPorts(
            self.disk.inbox, MemoryUsers(self.name), RecordingSink(), OpenGate(), MemoryMedia()
        )
        inbound = make_inbound(context, outbound, rooms, ports)
        self.inbox, self.filler = inbound.inbox, inbound.filler
        self._routes = [
            (method, _pattern(path), handler) for method, path, handler in inbound.routes.table()
        ]

    # Being asked

    async def answer(self, request: Outgoing) -> HttpResponse:
        """`Host.answer`: what the route's handler says, or what a lie makes of it."""
        path = request.target.partition("?")[0]
        answer = await self._honest_answer(request, path)
        for part, lie in self.lies.items():
            if part in path and answer.status == 200:
                body = lie(orjson.loads(answer.body))
                return (
                    answer
                    if body is None
                    else HttpResponse(200, answer.headers, orjson.dumps(body))
                )
        return answer

    async def _honest_answer(self, request: Outgoing, path: str) -> HttpResponse:
        for method, pattern, handler in self._routes:
            found = pattern.match(path)
            if found is not None and method == request.method:
                params = {name: unquote(value) for name, value in found.groupdict().items()}
                return await self._handle(handler, request, params)
        return HttpResponse(404, {}, b'{"errcode":"M_UNRECOGNIZED"}')

    async def _handle(
        self, handler: Any, request: Outgoing, params: Mapping[str, str]
    ) -> HttpResponse:
        try:
            return _answer(await handler(CarriedRequest(request), params))
        except THE_WORLDS:
            return HttpResponse(503, {}, b'{"errcode":"M_UNKNOWN"}')


def _answer(response: web.Response) -> HttpResponse:
    body = response.body
    assert isinstance(body, bytes), "federation answers bytes"
    return HttpResponse(response.status, {k.lower(): v for k, v in response.headers.items()}, body)


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]*)", path) + r"\Z")


class NoDeviceLists:
    """`DeviceListEdus` where nobody has a device."""

    async def changes(self, positions: object) -> list[JsonObject]:
        """Nothing changes."""
        return []

    async def whole_lists(self, users: object) -> list[JsonObject]:
        """All lists are empty."""
        return []
