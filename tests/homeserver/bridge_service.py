"""The HTTP side of an application service, over real sockets: notes what it is sent, and answers as
a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from tests.homeserver.appservice_world import HS_TOKEN

Answer = tuple[int, Any]
TRANSACTIONS = "/_matrix/app/v1/transactions"


class Received(NamedTuple):
    """A request: method, path as on the wire, query, and body (JSON, or None)."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class BridgeService:
    """Answers each path with what `answers` has for it, else with 200 {}; a coroutine function is
    called first. Transactions have their present path alone: the older one, which the server tries
    after each failure, answers 404, so that what a test changes in between doesn't split a try."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    before: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Notes a request and answers it."""
        if request.headers.get("Authorization") != f"Bearer {HS_TOKEN}":
            return web.json_response({"errcode": "M_FORBIDDEN"}, status=403)
        path = request.raw_path.partition("?")[0]
        text = await request.read()
        found = Received(
            request.method, path, dict(request.query), orjson.loads(text) if text else None
        )
        if (before := self.before.get(path)) is not None:
            await before()
        kind = "transactions" if path.startswith(f"{TRANSACTIONS}/") else path
        unknown = (
            (404, {"errcode": "M_UNRECOGNIZED"}) if path.startswith("/transactions/") else None
        )
        status, body = unknown or self.answers.get(kind, (200, {}))
        async with self.came:
            self.received.append(found)
            self.came.notify_all()
        if isinstance(body, bytes):
            return web.Response(status=status, body=body)
        return web.json_response(body, status=status)

    @property
    def paths(self) -> list[str]:
        """The paths of all requests."""
        return [one.path for one in self.received]

    @property
    def transactions(self) -> list[Received]:
        """The transactions that were accepted or not, in order."""
        return [one for one in self.received if one.path.startswith(TRANSACTIONS)]

    def sent(self, name: str) -> list[Any]:
        """What all transactions have under a name, together."""
        return [item for one in self.transactions for item in one.body.get(name, ())]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until what was received fulfils a condition."""
        async with self.came, asyncio.timeout(90):
            await self.came.wait_for(condition)

    async def until_sent(self, *event_ids: str) -> list[Any]:
        """Waits until events were sent; all events until then."""

        def is_there() -> bool:
            known = {event["event_id"] for event in self.sent("events")}
            return known.issuperset(event_ids)

        await self.until(is_there)
        return self.sent("events")


@asynccontextmanager
async def bridge_service() -> AsyncIterator[BridgeService]:
    """Serves on a free port."""
    service = BridgeService()
    runner = web.ServerRunner(web.Server(service.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    service.url = "http://{}:{}".format(*runner.addresses[0])
    try:
        yield service
    finally:
        await runner.cleanup()
