"""Starts one server from its configuration, and stops it in order.

Rules:
1. Sockets open last, when requests can be answered; they close first. Whether they can be opened is
   checked before anything else.
2. A stop stores all accepted changes: the committer ends with an empty queue, and only then tasks,
   connections and the embedded database end.
3. The signing key is created only for a server without history: with another key under the same
   name its earlier events could not be verified.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from homeserver import limits
from homeserver.api.admin.metrics import MetricsApi
from homeserver.api.http.app import HttpApp
from homeserver.api.http.server import HttpServer
from homeserver.app.engine import Engine, make_engine
from homeserver.app.federation import FederationContext, make_inbound, make_outbound, make_requests
from homeserver.app.routes import make_routes
from homeserver.app.services import Services, make_services
from homeserver.clock import SystemClock
from homeserver.config import Config, Listener
from homeserver.engine.followers.outbound_feed import LogFeed
from homeserver.engine.local.writer import Signer
from homeserver.engine.log.committer import Committer
from homeserver.metrics import MetricsStore
from homeserver.services.accounts.rate_limits import RateLimiter, configured_rates
from homeserver.signing_keys import SigningKeyInvalid, create_signing_key, load_signing_key
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.migrate import SchemaTooNew, migrate
from homeserver.supervisor import Supervisor
from local_postgres import EmbeddedCluster, EmbeddedError

_log = logging.getLogger(__name__)


class CanNotStart(Exception):
    """The server can't start; the text gives the reason and the remedy."""


def run_until_signal(config: Config) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit status."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.run(_run(config))
    return uvloop.run(_run(config))


async def _run(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    lost = asyncio.Event()

    def on_lost() -> None:
        lost.set()
        stop.set()

    try:
        async with serving(config, on_lost=on_lost):
            _log.info("%s is up", config.server_name)
            await stop.wait()
    except (
        CanNotStart,
        DatabaseUnavailable,
        EmbeddedError,
        SchemaTooNew,
        SigningKeyInvalid,
        OSError,
    ) as error:
        _log.error("%s", error)
        return 1
    return 1 if lost.is_set() else 0


@asynccontextmanager
async def serving(
    config: Config, *, on_lost: Callable[[], None] | None = None
) -> AsyncIterator[Services]:
    """Runs a server as long as the block lasts."""
    async with AsyncExitStack() as stack:
        raise_file_limit()
        clock, metrics, ending = SystemClock(), MetricsStore(), _Ending()
        supervisor = Supervisor(clock, metrics)
        _check_addresses(config)
        database = await _open_database(config, stack, ending)
        key = await _signing_key(Path(config.signing_key_path), database)
        around = FederationContext(config.federation_settings(), key, clock, metrics, supervisor)
        line = make_requests(around, database)
        stack.push_async_callback(line.dialer.close)
        name = ServerName(config.server_name)
        engine = await make_engine(
            database, name, key, clock, policies=line.policies, metrics=metrics
        )
        engine.committer.on_lost = on_lost
        way_out = make_outbound(around, engine, line)
        limiter = RateLimiter(clock, configured_rates(config.rate_limits))
        services = make_services(
            engine,
            way_out,
            config,
            signer=Signer(ServerName(config.server_name), key),
            clock=clock,
            limiter=limiter,
        )
        way_in = make_inbound(
            around,
            engine,
            way_out,
            users=services.queries,
            edus=services.edus,
            invites=services.rooms.invites,
        )
        engine.fanout.follow(engine.committer)
        edge = HttpApp(
            make_routes(services, config),
            federation=way_in.routes.table(),
            tokens=services.people.tokens,
            limiter=limiter,
            metrics=metrics,
            clock=clock,
            on_seen=services.people.seen.note,
        )
        stack.callback(services.people.passwords.close)
        stack.push_async_callback(ending.step, services.people.seen.flush)
        stack.push_async_callback(ending.step, way_in.outbox.stop)
        stack.push_async_callback(ending.step, partial(_stop, engine.committer, supervisor))
        await services.devicework.to_device.load()
        _spawn(supervisor, engine, services, way_out.feed)
        if config.metrics.address:
            page = HttpApp(
                MetricsApi(metrics).routes(),
                tokens=services.people.tokens,
                limiter=limiter,
                metrics=metrics,
                clock=clock,
            )
            await _listen(HttpServer(page, [Listener(address=config.metrics.address)]), stack)
        await _listen(HttpServer(edge, config.listeners), stack)
        await way_in.inbox.start()
        await way_in.outbox.start()
        _settle_memory()
        yield services


def raise_file_limit() -> None:
    """Raises the soft limit of open files to the hard one: each connection is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = limits.OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, limits.OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _check_addresses(config: Config) -> None:
    """Detects a second start by mistake, before it takes the log from the running process. Raises
    CanNotStart."""
    listeners = list(config.listeners)
    if config.metrics.address:
        listeners.append(Listener(address=config.metrics.address))
    for listener in listeners:
        host, port = listener.host_and_port()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise CanNotStart(
                    f"{listener.address} can't be listened at: {error.strerror}."
                    " Does the server run already?"
                ) from error


async def _listen(http: HttpServer, stack: AsyncExitStack) -> None:
    stack.push_async_callback(http.stop)
    await http.start()


def _spawn(supervisor: Supervisor, engine: Engine, services: Services, feed: LogFeed) -> None:
    supervisor.spawn("log", engine.committer.run)
    supervisor.spawn("log owner", engine.committer.watch_owner)
    supervisor.spawn("rechecks", engine.remote_event_writer.rechecks.run)
    supervisor.spawn("head merges", engine.head_merges.run)
    supervisor.spawn("feed", feed.run)
    supervisor.spawn("seen devices", services.people.seen.run)
    supervisor.spawn("transactions", lambda: engine.transactions.run(SystemClock()))
    supervisor.spawn("typing", services.devicework.typing.run)
    supervisor.spawn("to-device", services.devicework.to_device.run)
    supervisor.spawn("departures", services.departures.run)
    supervisor.spawn("joining", services.rooms.joining.run)
    supervisor.spawn("guests", services.guests.run)
    supervisor.spawn("device lists", services.devicework.remote_devices.run)


async def _stop(committer: Committer, supervisor: Supervisor) -> None:
    """Stores all accepted changes; then ends the tasks."""
    await committer.close(limits.LOG_CLOSE_S)
    await supervisor.stop()
    await committer.disconnect()


def _settle_memory() -> None:
    """Freezes the present objects: the garbage collector needn't walk them again. Later ones are
    mostly freed by reference counts, so it looks for cycles less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class _Ending:
    """The steps of a stop, which share a time of under 5 s, also if the database stalls."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    async def step(self, step: Callable[[], Awaitable[None]]) -> None:
        """Runs one step; it is abandoned, and logged, if it takes too long or the database is
        unavailable."""
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + limits.STOP_S
        try:
            async with asyncio.timeout_at(max(self._deadline, loop.time() + 0.1)):
                await step()
        except (TimeoutError, DatabaseUnavailable) as error:
            name = getattr(step, "__qualname__", "a step")
            _log.warning("stopping: %s was given up: %s", name, error)


async def _open_database(config: Config, stack: AsyncExitStack, ending: _Ending) -> Database:
    url = config.database.url
    if url == "embedded":
        cluster = EmbeddedCluster(Path(config.data_dir) / "postgresql")
        await cluster.start()
        stack.push_async_callback(cluster.stop)
        url = await cluster.ensure_database("freehold")
    database = await Database.open(url)
    stack.push_async_callback(ending.step, database.close)
    await migrate(database)
    return database


async def _signing_key(path: Path, database: Database) -> SigningKey:
    """Returns our key from its file; created, with its file, for a server without history."""
    async with database.connection() as connection:
        has_history = bool(await connection.fetchval("SELECT count(*) FROM logs"))
    return await asyncio.to_thread(_load_or_make_key, path, has_history)


def _load_or_make_key(path: Path, has_history: bool) -> SigningKey:
    if path.exists():
        return load_signing_key(path)
    if has_history:
        raise CanNotStart(
            f"the signing key {path} is missing, but this server has a history under its name."
            " Put the key back; a new one would make earlier events unprovable."
        )
    _log.info("making a signing key: %s", path)
    return create_signing_key(path, os.urandom)
