"""One module of endpoints behind the real edge, over services that note what they are asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from federation.events.ids import DeviceId, UserId
from federation.ports import Clock
from homeserver.api.http.app import HttpApp
from homeserver.api.http.routes import Route
from homeserver.api.http.server import HttpServer
from homeserver.clock import SystemClock
from homeserver.config import Listener
from homeserver.metrics import ServerMetrics
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.requester import Requester

ALICE = Requester(UserId("@alice:hs1"), DeviceId("DEV"), 1)
GUEST = Requester(UserId("@7:hs1"), DeviceId("DEV"), 2, is_guest=True)
V3 = "/_matrix/client/v3"


class Asked(NamedTuple):
    """One call of a service."""

    name: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


class NotedService:
    """Stands for a service whose methods are coroutines: notes each call; gives the answer that was
    set for it, or None. An exception is raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[Asked] = []

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **options: Any) -> Any:
            self.asked.append(Asked(name, arguments, options))
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    @property
    def only(self) -> Asked:
        """The one call that was made."""
        [asked] = self.asked
        return asked


class Holders:
    """Knows the token "token"."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def requester(self, token: str) -> Requester:
        """Returns the holder."""
        assert token == "token"
        return self._requester


class Reply(NamedTuple):
    """An answer: status, and the JSON body ({} for none)."""

    status: int
    body: Any

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and errcode of a refusal."""
        return self.status, self.body["errcode"]


class Caller:
    """A client with a token."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def call(self, method: str, path: str, body: Any = None, *, token: bool = True) -> Reply:
        """Calls an endpoint below /_matrix/client/v3, or at a whole path; `body` is JSON, or bytes
        that are sent as they are."""
        content = {"data": body} if isinstance(body, bytes) else {"json": body}
        headers = {"Authorization": "Bearer token"} if token else {}
        whole = path if path.startswith("/_matrix/") else V3 + path
        async with self._session.request(
            method, self._url + whole, headers=headers, **({} if body is None else content)
        ) as response:
            return Reply(response.status, await response.json())


@asynccontextmanager
async def serving(
    routes: Sequence[Route], requester: Requester = ALICE, *, clock: Clock | None = None
) -> AsyncIterator[Caller]:
    """Yields a client of a server that has these endpoints alone."""
    clock = clock or SystemClock()
    app = HttpApp(
        routes,
        tokens=Holders(requester),
        limiter=RateLimiter(clock, {}),
        metrics=ServerMetrics(),
        clock=clock,
    )
    server = HttpServer(app, [Listener(address="127.0.0.1:0")])
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Caller(f"http://127.0.0.1:{server.addresses[0][1]}", session)
    finally:
        await server.stop()
