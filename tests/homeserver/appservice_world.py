"""A whole server with one application service, and what that service does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import trustme
import yaml

from tests.hostile.clients.running_server import Reply, Server, running

AS_TOKEN, HS_TOKEN = "as-token", "hs-token"
BOT = "@_irc_bot:here.example"


def registration(**more: Any) -> dict[str, Any]:
    """A registration of users, aliases and a room, without a URL."""
    return {
        "id": "irc",
        "url": None,
        "as_token": AS_TOKEN,
        "hs_token": HS_TOKEN,
        "sender_localpart": "_irc_bot",
        "namespaces": {
            "users": [{"exclusive": True, "regex": "@_irc_.*"}],
            "aliases": [{"exclusive": True, "regex": "#_irc_.*"}],
            "rooms": [],
        },
        **more,
    }


@dataclass
class Bridge:
    """The application service as a client of the server."""

    server: Server
    path: Path
    token: str = AS_TOKEN

    async def call(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None
    ) -> Reply:
        """A request with the service's token; `query` names whom it acts as."""
        target = f"{path}?{urlencode(query)}" if query else path
        headers = {"Authorization": f"Bearer {self.token}"}
        return await self.server.call(method, target, body, headers=headers)

    async def ok(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None
    ) -> Any:
        """The body of an answer that must be 200."""
        reply = await self.call(method, path, body, query=query)
        assert reply.status == 200, (method, path, reply)
        return reply.body

    async def register(self, localpart: str) -> str:
        """A new user of the service, without a device; its ID."""
        body = {
            "type": "m.login.application_service",
            "username": localpart,
            "inhibit_login": True,
        }
        return str((await self.ok("POST", "/register", body))["user_id"])

    def write(self, **more: Any) -> None:
        """Writes its registration anew."""
        self.path.write_text(yaml.safe_dump(registration(**more)))


@asynccontextmanager
async def bridged(
    database_url: str, folder: Path, config: Mapping[str, Any] | None = None, **more: Any
) -> AsyncIterator[Bridge]:
    """Runs the server; `more` are fields of the registration, `config` tables of the
    configuration."""
    path = folder / "irc.yaml"
    path.write_text(yaml.safe_dump(registration(**more)))
    tables = {"appservices": {"registrations": [str(path)]}, **(config or {})}
    async with running(database_url, trustme.CA(), **tables) as server:
        yield Bridge(server, path)
