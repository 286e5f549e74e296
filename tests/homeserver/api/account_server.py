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
from federation.events.ids import DeviceId, ServerName, UserId
from homeserver.api.accounts.accounts import AccountsApi
from homeserver.api.accounts.devices import DevicesApi
from homeserver.api.accounts.logins import LoginsApi
from homeserver.api.accounts.profiles import ProfilesApi
from homeserver.api.http.app import FederationRoute, HttpApp
from homeserver.api.http.routes import Route, table
from homeserver.api.http.server import HttpServer
from homeserver.api.server_info import ServerInfoApi
from homeserver.clock import SystemClock
from homeserver.config import Config, Listener
from homeserver.engine.entries import DeviceListEntry, Entry
from homeserver.engine.log.committer import Committer
from homeserver.engine.log.transactions import Transactions
from homeserver.errors import not_found
from homeserver.metrics import ServerMetrics
from homeserver.services.accounts.accounts import AccountParts, Accounts, resolve_user
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.devices import Devices
from homeserver.services.accounts.logins import LoginParts, Logins
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.accounts.profiles import Profiles
from homeserver.services.accounts.rate_limits import RateLimiter, configured_rates
from homeserver.services.accounts.seen_devices import SeenDevices
from homeserver.services.accounts.tokens import Tokens
from homeserver.services.accounts.uia import StageChecks, Uia
from homeserver.storage import logs
from homeserver.storage.database import Connection, Database
from homeserver.storage.engine_store import PostgresStore
from homeserver.storage.migrate import migrate
from homeserver.supervisor import Supervisor

SERVER = ServerName("hs1")
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
V3 = "/_matrix/client/v3"


_EMPTY = "; ".join(
    f"DELETE FROM {table}"
    for table in (
        "accounts",
        "departures",
        "devices",
        "access_tokens",
        "profiles",
        "registration_tokens",
    )
)
"""Tests of accounts share one database, which is much quicker than one for each."""


class Reply(NamedTuple):
    """An answer: status, JSON body ({} for none), headers."""

    status: int
    body: JsonObject
    headers: Any


@dataclass
class AccountServer:
    """The running server and a client's session."""

    url: str
    database: Database
    committer: Committer
    metrics: ServerMetrics
    session: aiohttp.ClientSession
    seen: SeenDevices
    deleted: list[tuple[UserId, list[DeviceId]]] = field(default_factory=list)
    changed_profiles: list[UserId] = field(default_factory=list)
    deactivated: list[UserId] = field(default_factory=list)

    async def on_deleted(
        self, _connection: Connection, user_id: UserId, device_ids: Sequence[DeviceId]
    ) -> Sequence[Entry]:
        """Stands for what deletes a device's keys."""
        self.deleted.append((user_id, list(device_ids)))
        return [DeviceListEntry(user_id)]

    async def on_profile_changed(self, user_id: UserId) -> None:
        """Stands for what sends new member events."""
        self.changed_profiles.append(user_id)

    def on_deactivated(self, user_id: UserId) -> None:
        """Stands for what leaves the user's rooms."""
        self.deactivated.append(user_id)

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
    async with database.transaction() as connection:
        owned = await logs.take_over(connection, "history")
    committer = Committer(PostgresStore(database), owned)
    clock, metrics = SystemClock(), ServerMetrics()
    supervisor = Supervisor(clock, metrics)
    supervisor.spawn("committer", committer.run)
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
    server = AccountServer("", database, committer, metrics, session, SeenDevices(database, clock))
    passwords = Passwords(os.urandom, hasher=CHEAP)
    parts = _parts(server, config, clock, passwords)
    tokens, limiter = parts.tokens, parts.limiter
    edge = HttpApp(
        table([*parts.routes, routes()]),
        federation=federation,
        tokens=tokens,
        limiter=limiter,
        metrics=metrics,
        clock=clock,
        on_seen=server.seen.note,
    )
    http = HttpServer(edge, [Listener(address="127.0.0.1:0")])
    await http.start()
    server.url = "http://{}:{}".format(*http.addresses[0])
    try:
        yield server
    finally:
        await session.close()
        await http.stop()
        await committer.close(2)
        await supervisor.stop()
        await committer.disconnect()
        passwords.close()
        await database.close()


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


def resolve(name: str) -> UserId | None:
    """The user that a name means on this server."""
    return resolve_user(name, SERVER)


async def fetch_remote(user_id: UserId, key: str | None) -> JsonObject:
    """Plays the other servers: one user of theirs exists."""
    if user_id != "@far:hs2":
        raise not_found("There is no such user")
    return {"displayname": "Far"} if key in (None, "displayname") else {}


class _Parts(NamedTuple):
    routes: list[list[Route]]
    tokens: Tokens
    limiter: RateLimiter


def _parts(
    server: AccountServer, config: Config, clock: SystemClock, passwords: Passwords
) -> _Parts:
    database, committer = server.database, server.committer
    tokens = Tokens(database, os.urandom)
    limiter = RateLimiter(clock, configured_rates(config.rate_limits))

    sends = Transactions(PostgresStore(database))
    removal = DeviceRemoval(committer, tokens, [server.on_deleted], sends=sends)
    accounts = Accounts(
        database,
        SERVER,
        AccountParts(
            clock,
            os.urandom,
            passwords,
            tokens,
            removal,
            [server.on_deactivated],
            config.registration.tokens,
        ),
    )
    logins = Logins(
        database,
        committer,
        SERVER,
        LoginParts(clock, os.urandom, passwords, tokens, limiter, removal),
    )

    rechecks = StageChecks(accounts.is_password_right, accounts.is_token_usable, resolve)
    uia = Uia(clock, os.urandom, rechecks, limiter=limiter)
    profiles = Profiles(
        database,
        SERVER,
        on_profile_changed=server.on_profile_changed,
        fetch_remote=fetch_remote,
    )
    registration = config.registration
    routes = [
        AccountsApi(
            accounts,
            uia,
            enabled=registration.enabled,
            verification=registration.verification,
            guests=registration.guests,
        ).routes(),
        LoginsApi(logins, resolve, public_baseurl=config.public_baseurl).routes(),
        DevicesApi(Devices(database, committer, removal), uia).routes(),
        ProfilesApi(profiles).routes(),
        ServerInfoApi(
            public_baseurl=config.public_baseurl,
            default_room_version=config.default_room_version,
            delegated_name=config.federation.delegated_name,
        ).routes(),
    ]
    return _Parts(routes, tokens, limiter)
