"""Starts one server from its configuration, and stops it in order.

Rules:
1. Sockets open last, when requests can be answered; they close first. Whether they can be opened is
   checked before anything else.
2. A stop stores all accepted changes: the committer ends with an empty queue, and only then tasks,
   connections and the embedded database end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.ports import FederationSettings
from federation.transport.assembly import FederationContext
from federation.transport.requests.dialer import Dialer, build_tls_context
from homeserver import limits
from homeserver.api.admin.metrics import MetricsApi
from homeserver.api.http.app import HttpApp
from homeserver.api.http.server import HttpServer, check_addresses
from homeserver.app.context import ServerContext
from homeserver.app.domains.appservices import appservice_registry
from homeserver.app.domains.federation import (
    make_feed,
    make_net_requests,
    make_stored_inbound,
    make_stored_outbound,
    make_stored_outbox,
)
from homeserver.app.domains.outside import make_outside
from homeserver.app.engine import make_engine
from homeserver.app.routes import make_routes
from homeserver.app.services import Services, make_services
from homeserver.clock import SystemClock
from homeserver.config import Config, Listener
from homeserver.engine.followers.outbound_feed import LogFeed
from homeserver.engine.log.committer import Committer
from homeserver.metrics import ServerMetrics
from homeserver.services.accounts.rate_limits import RateLimiter, configured_rates
from homeserver.shutdown import Shutdown
from homeserver.signing_keys import load_or_create_signing_key
from homeserver.storage.database import Database
from homeserver.storage.logs import LogTable
from homeserver.storage.migrate import migrate
from homeserver.storage.postgres_store import PostgresStore
from homeserver.supervisor import Supervisor
from local_postgres import EmbeddedCluster


@asynccontextmanager
async def serving(
    config: Config, *, on_lost: Callable[[], None] | None = None
) -> AsyncIterator[Services]:
    """Runs a server as long as the block lasts; `on_lost` is called when another process takes its
    log. Raises CanNotListen, DatabaseUnavailable, EmbeddedError, RegistrationsInvalid,
    SchemaTooNew, SigningKeyInvalid, SigningKeyMissing or OSError."""
    async with AsyncExitStack() as stack:
        clock, metrics, shutdown = SystemClock(), ServerMetrics(), Shutdown()
        supervisor = Supervisor(clock, metrics)
        check_addresses(_all_listeners(config))
        database = await _open_database(config, stack, shutdown)
        key = await _signing_key(Path(config.signing_key_path), database)
        settings = config.federation_settings()
        dialer, media_dialer = _dialer(settings, stack), _dialer(settings, stack)
        transport = FederationContext(settings, key, clock, metrics, supervisor.spawn)
        requests = make_net_requests(transport, database, dialer, media_dialer)
        engine = await make_engine(
            ServerContext(ServerName(config.server_name), key, clock, metrics, os.urandom),
            PostgresStore(database),
            policies=requests.policies,
            on_lost=on_lost,
        )
        outbound = make_stored_outbound(transport, engine, database, requests)
        feed = make_feed(engine, database)
        registry = await stack.enter_async_context(appservice_registry(database, clock, config))
        limiter = RateLimiter(clock, configured_rates(config.rate_limits))
        outside = make_outside(config, engine.context, supervisor.run_once)
        stack.push_async_callback(outside.close)
        services = make_services(
            engine,
            database,
            outbound,
            config,
            limiter=limiter,
            forward=feed.forward,
            registry=registry,
            outside=outside,
        )
        stack.push_async_callback(services.media.views.close)
        outbox = make_stored_outbox(transport, engine, database, requests, feed)
        inbound = make_stored_inbound(
            transport, engine, database, outbound, services.federation, services.inviting
        )
        engine.fanout.follow(engine.committer)
        app = HttpApp(
            make_routes(services, config),
            federation=inbound.routes.table(),
            tokens=services.accounts.tokens,
            appservices=registry.assertion,
            limiter=limiter,
            metrics=metrics,
            clock=clock,
            on_seen=services.accounts.seen.note,
        )
        stack.callback(services.accounts.passwords.close)
        stack.callback(services.media.contents.close)
        stack.push_async_callback(shutdown.step, services.accounts.seen.flush)
        stack.push_async_callback(shutdown.step, outbox.stop)
        stack.push_async_callback(shutdown.step, partial(_stop, engine.committer, supervisor))
        await services.encryption.to_device.load()
        await services.pushers.deliveries.start(supervisor.spawn)
        _spawn(supervisor, services, feed)
        if config.metrics.address:
            page = _metrics_page(services, limiter)
            await _listen(HttpServer(page, _metrics_listeners(config)), stack)
        await _listen(HttpServer(app, config.listeners), stack)
        await inbound.inbox.start()
        await outbox.start()
        yield services


def _metrics_page(services: Services, limiter: RateLimiter) -> HttpApp:
    context = services.engine.context
    return HttpApp(
        MetricsApi(context.metrics).routes(),
        tokens=services.accounts.tokens,
        limiter=limiter,
        metrics=context.metrics,
        clock=context.clock,
    )


def _metrics_listeners(config: Config) -> list[Listener]:
    return [Listener(address=config.metrics.address)] if config.metrics.address else []


def _all_listeners(config: Config) -> list[Listener]:
    return [*config.listeners, *_metrics_listeners(config)]


async def _listen(http: HttpServer, stack: AsyncExitStack) -> None:
    stack.push_async_callback(http.stop)
    await http.start()


def _spawn(supervisor: Supervisor, services: Services, feed: LogFeed) -> None:
    engine = services.engine
    supervisor.spawn("log", engine.committer.run)
    supervisor.spawn("log owner", engine.committer.watch_owner)
    supervisor.spawn("rechecks", engine.remote_event_writer.rechecks.run)
    supervisor.spawn("head merges", engine.head_merges.run)
    supervisor.spawn("feed", feed.run)
    supervisor.spawn("seen devices", services.accounts.seen.run)
    supervisor.spawn("accounts", services.admin.watch.run)
    supervisor.spawn("transactions", partial(engine.transactions.run, engine.context.clock))
    supervisor.spawn("typing", services.ephemeral.typing.run)
    for name, run in services.ephemeral.presence.tasks():
        supervisor.spawn(name, run)
    supervisor.spawn("to-device", services.encryption.to_device.run)
    supervisor.spawn("departures", services.rooms.departures.run)
    supervisor.spawn("joining", services.joining.run)
    supervisor.spawn("guests", services.rooms.guests.run)
    supervisor.spawn("application services", services.appservices.deliveries.run)
    supervisor.spawn("registrations", services.appservices.registrations.run)
    supervisor.spawn("user directory", services.rooms.user_directory.run)
    supervisor.spawn("message index", services.search.index.run)
    supervisor.spawn("media", services.media.retention.run)
    supervisor.spawn("previews", services.media.views.previews.run)
    supervisor.spawn("notifications", services.push.counts.run)
    supervisor.spawn("old notifications", services.push.pruning.run)
    supervisor.spawn("notification mails", services.pushers.digests.run)
    supervisor.spawn("pushes", services.pushers.queue.run)
    supervisor.spawn("device lists", services.encryption.remote_devices.run)


async def _stop(committer: Committer, supervisor: Supervisor) -> None:
    """Stores all accepted changes; then ends the tasks."""
    await committer.close(limits.LOG_CLOSE_S)
    await supervisor.stop()
    await committer.disconnect()


def _dialer(settings: FederationSettings, stack: AsyncExitStack) -> Dialer:
    """Returns connections to other servers, closed with the stack."""
    tls = build_tls_context(settings.ca_paths, verify=settings.verify_tls)
    dialer = Dialer(tls, allow_private=settings.allow_private_addresses)
    stack.push_async_callback(dialer.close)
    return dialer


async def _open_database(config: Config, stack: AsyncExitStack, shutdown: Shutdown) -> Database:
    url = config.database.url
    if config.database.url == "embedded":
        cluster = EmbeddedCluster(Path(config.data_dir) / "postgresql")
        await cluster.start()
        stack.push_async_callback(cluster.stop)
        url = await cluster.ensure_database("freehold")
    database = await Database.open(url)
    stack.push_async_callback(shutdown.step, database.close)
    await migrate(database)
    return database


async def _signing_key(path: Path, database: Database) -> SigningKey:
    has_history = await LogTable(database).has_history()
    return await asyncio.to_thread(
        load_or_create_signing_key, path, os.urandom, has_history=has_history
    )
