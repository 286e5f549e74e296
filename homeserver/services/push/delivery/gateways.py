"""Requests to push gateways: servers that users name, so they may be anything.

Rules:
1. A gateway's name is resolved here, and the connection goes to the very address that was checked;
   redirects aren't followed (`federation.transport.requests.dialer`).
2. The requests under way are bounded: in all, for each user, for each gateway, and for pushers
   whose last request failed. So gateways that stall leave room for others, whatever they are called
   and however many of them a user names.
3. An answer counts if it has the status 200 and is a JSON object; each other one is a failure.

Spec: push gateway API.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum

from federation.events.ids import UserId
from federation.https_urls import HttpsUrl
from federation.transport.requests.dialer import (
    Bounds,
    Dialer,
    DialError,
    HttpResponse,
    Outgoing,
)
from federation.transport.requests.resolve import NameService
from federation.transport.requests.urls import find_endpoint
from homeserver import limits
from homeserver.rules.push.gateway_messages import parse_answer

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


class PushFailure(Enum):
    """The reason why a push wasn't taken."""

    UNREACHABLE = "unreachable"
    """No answer: no address, no connection, too slow, too large, not HTTP."""
    FAILED = "failed"
    """The gateway fails: 5xx, a redirect, or an answer that isn't a gateway's."""
    BUSY = "busy"
    """The gateway asks to wait (429)."""
    REFUSED = "refused"
    """The gateway refuses this request: another 4xx."""


class PushFailed(Exception):
    """A push that wasn't taken; `retry_after_s` is what the gateway asks for, or 0."""

    def __init__(self, kind: PushFailure, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind, self.retry_after_s = kind, retry_after_s


class Gateways:
    """The push gateways that users have named. `turn` before `notify`."""

    def __init__(self, dialer: Dialer, names: NameService) -> None:
        self._dialer, self._names = dialer, names
        self._all = asyncio.Semaphore(limits.PUSHES_AT_ONCE)
        self._failing = asyncio.Semaphore(limits.PUSHES_OF_FAILING_AT_ONCE)
        self._of_user = _Places(limits.PUSHES_PER_USER)
        self._at_gateway = _Places(limits.PUSHES_PER_GATEWAY)

    @asynccontextmanager
    async def turn(
        self, user_id: UserId, gateway: HttpsUrl, *, is_failing: bool
    ) -> AsyncIterator[None]:
        """Waits until a request for a user may be made; `is_failing`: the pusher's last one
        failed."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._of_user.place(user_id))
            if is_failing:
                await stack.enter_async_context(self._failing)
            await stack.enter_async_context(self._at_gateway.place(gateway.authority))
            await stack.enter_async_context(self._all)
            yield

    async def notify(self, gateway: HttpsUrl, body: bytes) -> frozenset[str]:
        """Sends one request; returns the push keys that the gateway rejects. Raises PushFailed."""
        request = Outgoing("POST", gateway.target, _HEADERS, body)
        bounds = Bounds(timeout_s=limits.PUSH_REQUEST_S, bytes_max=limits.PUSH_ANSWER_BYTES)
        try:
            endpoint = await find_endpoint(gateway, self._names.addresses)
            response = await self._dialer.exchange(endpoint, request, bounds)
        except (OSError, TimeoutError, UnicodeError) as error:  # of the look-up
            raise PushFailed(PushFailure.UNREACHABLE, f"{gateway.host}: {error}") from None
        except DialError as error:
            raise PushFailed(PushFailure.UNREACHABLE, str(error)) from None
        if response.status != 200:
            raise _refusal(response)
        rejected = parse_answer(response.body)
        if rejected is None:
            raise PushFailed(PushFailure.FAILED, "the answer isn't a push gateway's")
        return rejected


class _Places:
    """The places for requests of each gateway, or of each user, by name: `most` of one name."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: dict[str, asyncio.Semaphore] = {}
        self._holders = Counter[str]()
        """How many have a place or wait for one."""

    def __len__(self) -> int:
        return len(self._free)

    @asynccontextmanager
    async def place(self, name: str) -> AsyncIterator[None]:
        """Waits for a place, and holds it as long as the block lasts."""
        free = self._free.setdefault(name, asyncio.Semaphore(self._most))
        self._holders[name] += 1
        try:
            async with free:
                yield
        finally:
            self._holders[name] -= 1
            if not self._holders[name]:
                del self._holders[name], self._free[name]


def _refusal(response: HttpResponse) -> PushFailed:
    status, kind = response.status, PushFailure.FAILED
    if status == 429:
        kind = PushFailure.BUSY
    elif 400 <= status < 500 and status != 408:
        kind = PushFailure.REFUSED
    after = response.headers.get("retry-after", "")
    is_number = after.isascii() and after.isdigit() and len(after) <= limits.QUERY_NUMBER_CHARACTERS
    after_s = min(float(after), limits.PUSH_RETRY_S_MAX) if is_number else 0.0
    return PushFailed(kind, f"status {status}", retry_after_s=after_s)
