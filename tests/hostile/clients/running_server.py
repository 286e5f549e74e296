"""The whole server over real sockets and a real database, for tests that attack it.

`Server.call` sends a request as it is written: nothing is encoded, nothing is checked on the way.
`Server.rows` counts what is stored, so that a test can say: nothing was.
"""

from __future__ import annotations

import io
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import asyncpg
import msgspec
import orjson
import trustme
from yarl import URL

from federation.events.canonical_json import JsonObject
from homeserver.api.http.routes import Route
from homeserver.app.routes import make_routes
from homeserver.app.server import serving
from homeserver.app.services import Services
from homeserver.config import Config
from homeserver.process import raise_file_limit
from tests.faults.servers import until

SERVER = "here.example"
SSO_PROVIDER = {"id": "oidc", "name": "O", "kind": "oidc", "url": "http://127.0.0.1:1"} | {
    "client_id": "c",
    "client_secret": "s",
}
"""One that nobody reaches."""
V3 = "/_matrix/client/v3"
_PASSES = frozenset(
    {
        "devices",
        "server_keys",
        "destinations",
        "logs",
        "inbox",
        "departures",
        "user_directory",
        "user_directory_rooms",
        "user_directory_position",
        "search_events",
        "search_position",
        "search_waiting",
        "appservices",
        "push_counts",
        "push_events",
        "push_redactions",
        "push_position",
        "push_reads",
        "push_rooms",
    }
)
"""Tables that change by themselves: when devices were seen, cursors, jobs, what follows the log."""

_UNDER_WAY = (
    "SELECT EXISTS (SELECT FROM joining_intents) OR EXISTS (SELECT FROM departures"
    " JOIN memberships USING (user_id) WHERE membership IN ('join', 'invite', 'knock'))"
)
"""Whether exchanges are to be finished or undone, or deactivated users have rooms to leave."""


class Reply(NamedTuple):
    """An answer: status, body (JSON, or bytes where it is none), headers."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def errcode(self) -> str:
        """The error code, or ""."""
        return str(self.body.get("errcode", "")) if isinstance(self.body, dict) else ""


class User(NamedTuple):
    """A logged-in user."""

    user_id: str
    token: str
    device_id: str


@dataclass
class Requests:
    """A session of clients with a server."""

    url: str
    session: aiohttp.ClientSession

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        by: User | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request; `path` below /_matrix/client/v3 unless it begins with /_ or /. (dot).
        `body` is sent as JSON, or as it is if it is bytes."""
        sent = dict(headers or {})
        if by is not None:
            sent["Authorization"] = f"Bearer {by.token}"
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        target = path if path.startswith(("/_", "/.")) else V3 + path
        async with self.session.request(
            method,
            URL(self.url + target, encoded=True),
            data=None if data is None else io.BytesIO(data),
            headers=sent,
        ) as response:
            text = await response.read()
            try:
                parsed = orjson.loads(text)
            except orjson.JSONDecodeError:
                parsed = text
            return Reply(response.status, parsed, response.headers)

    async def ok(
        self, method: str, path: str, body: object = None, *, by: User | None = None
    ) -> Any:
        """The body of an answer that must be 200."""
        reply = await self.call(method, path, body, by=by)
        assert reply.status == 200, (method, path, reply)
        return reply.body

    async def register(self, name: str) -> User:
        """A new user."""
        body = {"username": name, "password": "secret", "auth": {"type": "m.login.dummy"}}
        found = await self.ok("POST", "/register", body)
        return User(found["user_id"], found["access_token"], found["device_id"])

    async def create_room(self, by: User, **more: object) -> str:
        """A new room's ID."""
        return str((await self.ok("POST", "/createRoom", more, by=by))["room_id"])

    async def send(self, by: User, room_id: str, transaction: str, text: str = "x") -> str:
        """Sends a message; its event ID."""
        path = f"/rooms/{quote(room_id)}/send/m.room.message/{transaction}"
        found = await self.ok("PUT", path, {"msgtype": "m.text", "body": text}, by=by)
        return str(found["event_id"])

    async def sync(self, by: User, **query: str) -> JsonObject:
        """One sync that doesn't wait."""
        path = "/sync?" + "&".join(f"{key}={quote(value)}" for key, value in query.items())
        found: JsonObject = await self.ok("GET", path, by=by)
        return found


@dataclass
class Server(Requests):
    """The running server and a session of clients."""

    tls_address: str
    services: Services
    config: Config
    database: asyncpg.Connection
    counting: str = ""

    @property
    def routes(self) -> list[Route]:
        """The table of client routes."""
        return make_routes(self.services, self.config)

    async def _is_settled(self) -> bool:
        return not await self.database.fetchval(_UNDER_WAY)

    async def rows(self) -> dict[str, int]:
        """How many rows each table has, and where the log stands, once nothing is left to do of
        what earlier requests began."""
        await until(self._is_settled, "what earlier requests began is done")
        if not self.counting:
            names = await self.database.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
            )
            counts = [
                f"SELECT '{row['tablename']}', count(*) FROM \"{row['tablename']}\""
                for row in names
                if row["tablename"] not in _PASSES
            ]
            counts.append("SELECT 'position', max(position) FROM logs")
            self.counting = " UNION ALL ".join(counts)
        return dict(await self.database.fetch(self.counting))


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(
    database_url: str, authority: trustme.CA, **more: object
) -> AsyncIterator[Server]:
    """Runs a server on two listeners, plain and TLS; `more` are tables of the configuration."""
    raise_file_limit()
    plain, tls = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="freehold-test-") as name:
        folder = Path(name)
        made = authority.issue_cert(SERVER, "localhost", "127.0.0.1")
        made.private_key_pem.write_to_path(folder / "key.pem")
        made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        table: dict[str, Any] = {
            "server_name": SERVER,
            "data_dir": str(folder),
            "signing_key_path": str(folder / "signing.key"),
            "database": {"url": database_url},
            "listeners": [
                {"address": f"127.0.0.1:{plain}"},
                {
                    "address": f"127.0.0.1:{tls}",
                    "tls_cert_path": str(folder / "cert.pem"),
                    "tls_key_path": str(folder / "key.pem"),
                },
            ],
            "registration": {
                "enabled": True,
                "verification": "none",
                "guests": True,
                "shared_secret": "a secret of programs",
            },
            "rate_limits": {"enabled": False},
            "public_baseurl": "https://here.example",
            "sso": {"providers": [SSO_PROVIDER]},
            "email": {"host": "127.0.0.1", "port": free_port(), "tls": "none", "sender": "a@b"},
            "passwords": {"iterations": 1, "memory_kib": 32},
            **more,
        }
        table.setdefault("federation", {})
        table["federation"] = {"ca_paths": [str(folder / "ca.pem")], **table["federation"]}
        config = msgspec.convert(table, Config)
        database = await asyncpg.connect(database_url)
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with serving(config) as services:
                url, tls_address = f"http://127.0.0.1:{plain}", f"127.0.0.1:{tls}"
                yield Server(url, session, tls_address, services, config, database)
        finally:
            await session.close()
            await database.close()
