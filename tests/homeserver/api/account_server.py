"""A server with accounts alone, over a real database and real sockets, for tests of the edge."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
from argon2 import PasswordHasher

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, UserId
from federation.events.signing import SigningKey
from homeserver.api.http.app import FederationRoute, HttpApp
from homeserver.api.http.routes import Route, table
from homeserver.api.http.server import HttpServer
from homeserver.app.context import ServerContext
from homeserver.app.domains.accounts import (
    AccountHooks,
    AccountServices,
    account_routes,
    make_accounts,
)
from homeserver.app.domains.admin import admin_routes, make_admin
from homeserver.app.domains.identity import identity_routes, make_identity, make_proofs
from homeserver.app.domains.outside import make_outside
from homeserver.app.engine import Engine, make_engine
from homeserver.app.routes import server_info_routes
from homeserver.app.sign_on import make_sign_on, sso_routes
from homeserver.clock import SystemClock
from homeserver.config import Config, Listener
from homeserver.engine.entries import DeviceListEntry, Entry
from homeserver.engine.local.policy_signer import NoPolicyServer
from homeserver.engine.log.committer import Committer
from homeserver.errors import exclusive, not_found
from homeserver.metrics import ServerMetrics
from homeserver.outbound.identity_servers import IdentityServers
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.accounts.rate_limits import RateLimiter, configured_rates
from homeserver.storage.database import Connection, Database
from homeserver.storage.migrate import migrate
from homeserver.storage.postgres_store import PostgresStore
from homeserver.supervisor import Supervisor
from homeserver.web.pages import Pages

SERVER = ServerName("hs1")
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
V3 = "/_matrix/client/v3"

VERSIONS = ("v1.1", "v1.2")
"""Of the specification, as the server names them."""


_EMPTY = "; ".join(
    f"DELETE FROM {table}"
    for table in (
        "accounts",
        "departures",
        "devices",
        "access_tokens",
        "profiles",
        "registration_tokens",
        "refresh_tokens",
        "openid_tokens",
        "reports",
        "third_party_ids",
        "validations",
        "third_party_bindings",
        "sso_users",
    )
)
"""Tests of accounts share one database, which is much quicker than one for each."""


class Reply(NamedTuple):
    """An answer: status, JSON body ({} for none), headers."""

    status: int
    body: JsonObject
    headers: Any


@dataclass
class Watched:
    """What other domains are told by the services of accounts."""

    deleted: list[tuple[UserId, list[DeviceId]]] = field(default_factory=list)
    changed_profiles: list[UserId] = field(default_factory=list)
    deactivated: list[UserId] = field(default_factory=list)
    taken: set[UserId] = field(default_factory=set)

    @property
    def hooks(self) -> AccountHooks:
        """What the services of accounts call; other servers have one user."""
        return AccountHooks(
            on_devices_deleted=[self.on_deleted],
            on_deactivated=[self.deactivated.append],
            on_profile_changed=[self.on_profile_changed],
            fetch_profile=fetch_remote,
            check_name=self.check_name,
        )

    def check_name(self, user_id: UserId, by: AppService | None) -> None:
        """Stands for namespaces of application services."""
        if user_id in self.taken and by is None:
            raise exclusive("This user name is reserved")

    async def on_deleted(
        self, _connection: Connection, user_id: UserId, device_ids: Sequence[DeviceId]
    ) -> Sequence[Entry]:
        """Stands for what deletes a device's keys."""
        self.deleted.append((user_id, list(device_ids)))
        return [DeviceListEntry(user_id)]

    async def on_profile_changed(self, user_id: UserId) -> None:
        """Stands for what sends new member events."""
        self.changed_profiles.append(user_id)


@dataclass
class AccountServer:
    """The running server and a client's session."""

    url: str
    database: Database
    engine: Engine
    services: AccountServices
    metrics: ServerMetrics
    session: aiohttp.ClientSession
    watched: Watched
    supervisor: Supervisor

    @property
    def committer(self) -> Committer:
        """The log."""
        return self.engine.committer

    async def call(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **more: Any
    ) -> Reply:
        """One request; `path` below /_matrix/client/v3 unless it starts with /_ or /."""
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        target = path if path.startswith(("/_", "/.")) else V3 + path
        if body is not None:
            more["json"] = body
        async with self.session.request(
            method, yarl_raw(self.url + target), headers=headers, **more
        ) as response:
            text = await response.read()
            return Reply(response.status, await response.json() if text else {}, response.headers)

    async def register(self, name: str, password: str = "secret", **more: Any) -> JsonObject:
        """Registers a user and returns the answer's body."""
        body = {"username": name, "password": password, "auth": {"type": "m.login.dummy"}, **more}
        reply = await self.call("POST", "/register", body)
        assert reply.status == 200, reply
        return reply.body

    async def log_in(self, name: str, password: str = "secret", **more: Any) -> Reply:
        """Logs a user in."""
        identifier = {"type": "m.id.user", "user": name}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, **more}
        return await self.call("POST", "/login", body)


def yarl_raw(url: str) -> Any:
    """A URL that is sent as it is written."""
    from yarl import URL

    return URL(url, encoded=True)


@asynccontextmanager
async def account_server(
    accounts_url: str,
    *,
    config: Config | None = None,
    routes: Callable[[], Sequence[Route]] = list,
    federation: Sequence[FederationRoute] = (),
) -> AsyncIterator[AccountServer]:
    """Runs a server; `config` gives registration and rate limits, `routes` further routes."""
    config = config or open_config()
    database = await Database.open(accounts_url)
    await migrate(database)
    async with database.connection() as connection:
        await connection.execute(_EMPTY)
    clock, metrics = SystemClock(), ServerMetrics()
    context = ServerContext(SERVER, _new_key(), clock, metrics, os.urandom)
    engine = await make_engine(context, PostgresStore(database), policies=NoPolicyServer())
    supervisor = Supervisor(clock, metrics)
    supervisor.spawn("committer", engine.committer.run)
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
    limiter = RateLimiter(clock, configured_rates(config.rate_limits))
    watched = Watched()
    outside = make_outside(config, context, supervisor.run_once)
    proofs = make_proofs(context, database, config, outside.mail, outside.trusted, limiter)
    services = make_accounts(
        engine,
        database,
        watched.hooks,
        passwords=Passwords(os.urandom, CHEAP),
        limiter=limiter,
        config=config,
        proofs=proofs,
    )
    asked = IdentityServers(outside.named, config.identity.servers)
    identity = make_identity(context, database, proofs, asked, services.passwords, services.removal)
    admin = make_admin(engine, database, services, watched.hooks, config, sees_all_but_hidden)
    supervisor.spawn("accounts", admin.watch.run)
    server = AccountServer("", database, engine, services, metrics, session, watched, supervisor)
    pages = Pages(SERVER)
    sign_on = make_sign_on(context, database, config, outside.trusted, services)
    parts = [
        *account_routes(services, identity, config, pages),
        *identity_routes(identity, services.accounts, services.uia, pages),
        *sso_routes(context, sign_on, services, config, pages),
        *admin_routes(admin, config),
        server_info_routes(config, VERSIONS),
        routes(),
    ]
    edge = HttpApp(
        table(parts),
        federation=federation,
        tokens=services.tokens,
        limiter=limiter,
        metrics=metrics,
        clock=clock,
        on_seen=services.seen.note,
    )
    http = HttpServer(edge, [Listener(address="127.0.0.1:0")])
    await http.start()
    server.url = "http://{}:{}".format(*http.addresses[0])
    try:
        yield server
    finally:
        await session.close()
        await http.stop()
        await outside.close()
        await engine.committer.close(2)
        await supervisor.stop()
        await engine.committer.disconnect()
        services.passwords.close()
        await database.close()


def _new_key() -> SigningKey:
    return SigningKey.generate(os.urandom(32), "1")


def open_config(**more: Any) -> Config:
    """Open registration, no rate limits."""
    import msgspec

    table = {
        "server_name": str(SERVER),
        "registration": {"enabled": True, "verification": "none"},
        "rate_limits": {"enabled": False},
        **more,
    }
    return msgspec.convert(table, Config)


async def sees_all_but_hidden(_user_id: UserId, _room_id: RoomId, event_id: EventId) -> bool:
    """Plays the rooms: everybody is joined to all of them, and sees all events but `$hidden`."""
    return event_id != "$hidden"


async def fetch_remote(user_id: UserId, key: str | None) -> JsonObject:
    """Plays the other servers: one user of theirs exists."""
    if user_id != "@far:hs2":
        raise not_found("There is no such user")
    return {"displayname": "Far"} if key in (None, "displayname") else {}
