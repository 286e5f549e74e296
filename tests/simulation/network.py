"""The network between simulated servers: seeded delay, loss, duplication, reordering, partitions.

A request is carried to the other server's real handlers. It may arrive twice, or not; its answer
may be lost though it was handled. Requests overtake each other, since each has a delay of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from federation.events.ids import ServerName
from federation.transport.requests.dialer import (
    Bounds,
    DialError,
    DialFailure,
    Endpoint,
    HttpResponse,
    Outgoing,
    Receiver,
)
from federation.transport.scheduling.exchange_budget import Take


class Host(Protocol):
    """A server as the network sees it."""

    is_up: bool

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Runs something as the server's own; it dies with the server."""

    async def answer(self, request: Outgoing) -> HttpResponse:
        """Handles a request."""


@dataclass
class Weather:
    """How bad it is."""

    delay_s_max: float = 0.05
    loss: float = 0.0
    duplication: float = 0.0


@dataclass
class Network:
    """All links."""

    rng: random.Random
    hosts: dict[ServerName, Host] = field(default_factory=dict)
    weather: Weather = field(default_factory=Weather)
    cut: set[tuple[ServerName, ServerName]] = field(default_factory=set)
    requests: int = 0
    lost: int = 0
    lost_to_cuts: int = 0
    duplicated: int = 0
    trace: Callable[[str], None] = lambda _: None

    async def resolve(self, server: ServerName) -> Endpoint:
        """Every name leads to its server (`transport.resolve.Resolver`)."""
        return Endpoint((server,), 8448, server, server, may_be_private=True)

    def is_lost(self, one: ServerName, other: ServerName) -> bool:
        """Is a packet on this way lost?"""
        is_cut = (one, other) in self.cut
        lost = is_cut or self.rng.random() < self.weather.loss
        self.lost_to_cuts += is_cut
        self.lost += lost
        return lost

    async def delay(self) -> None:
        """The time on the way."""
        await asyncio.sleep(self.rng.random() * self.weather.delay_s_max)

    def heal(self) -> None:
        """Good weather, all links up."""
        self.cut.clear()
        self.weather = Weather()


class NetworkDialer:
    """One server's way out (`transport.dialer.Dialer`)."""

    def __init__(self, network: Network, own: ServerName) -> None:
        self._network, self._own = network, own

    async def exchange(
        self,
        endpoint: Endpoint,
        request: Outgoing,
        bounds: Bounds,
        receiver: Receiver | None = None,
        take: Take | None = None,
    ) -> HttpResponse:
        """Carries a request and its answer, whose bytes `take` counts. Raises DialError, and what
        these two do."""
        answer = await self._exchange(endpoint, request, bounds)
        if take is not None:
            take(len(answer.body))
        if receiver is not None and answer.status == 200:
            await receiver(answer.headers)(answer.body)
        return answer

    async def _exchange(
        self, endpoint: Endpoint, request: Outgoing, bounds: Bounds
    ) -> HttpResponse:
        network, own, other = self._network, self._own, ServerName(endpoint.host_header)
        network.requests += 1
        try:
            async with asyncio.timeout(bounds.timeout_s):
                await network.delay()
                host = network.hosts.get(other)
                if network.is_lost(own, other):
                    await asyncio.sleep(bounds.timeout_s + 1)
                if host is None or not host.is_up:
                    raise DialError(DialFailure.REFUSED, f"{other} is down")
                if network.rng.random() < network.weather.duplication:
                    network.duplicated += 1
                    self._deliver(host, request)
                answer = await self._deliver(host, request)
                await network.delay()
                if network.is_lost(other, own):
                    await asyncio.sleep(bounds.timeout_s + 1)
        except TimeoutError:
            raise DialError(DialFailure.TIMEOUT, f"{other} doesn't answer") from None
        if len(answer.body) > bounds.bytes_max:
            raise DialError(DialFailure.TOO_LARGE, "the answer is too large")
        return answer

    def _deliver(self, host: Host, request: Outgoing) -> asyncio.Future[HttpResponse]:
        """Has the host handle it in a task of its own, after a delay."""
        answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

        async def handle() -> None:
            await self._network.delay()
            try:
                found = await host.answer(request)
            except BaseException as error:
                if not answer.done():
                    answer.set_exception(DialError(DialFailure.BROKEN, type(error).__name__))
                    answer.exception()
                raise
            if not answer.done():
                answer.set_result(found)

        host.start("handler", handle())
        return answer


class _Body:
    """A request's body stream."""

    def __init__(self, body: bytes | None) -> None:
        self._body = body or b""

    async def iter_any(self) -> Any:
        """The body in one piece."""
        if self._body:
            yield self._body


class _Headers:
    """A request's headers."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = {name.lower(): value for name, value in headers.items()}

    def getall(self, name: str, default: list[str]) -> list[str]:
        """All values of a header."""
        value = self._headers.get(name.lower())
        return default if value is None else [value]


class CarriedRequest:
    """A request as handlers see it (the part of `aiohttp.web.BaseRequest` that they use)."""

    def __init__(self, request: Outgoing) -> None:
        self.method, self.raw_path = request.method, request.target
        self.headers = _Headers(request.headers)
        self.content = _Body(request.body)
        self.content_length = len(request.body or b"")
