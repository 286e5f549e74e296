"""Requests to application services.

Rules:
1. A service is known by its `hs_token`, in the Authorization header; on the older paths, for older
   services, also in the query. Neither ever reaches a log.
2. An answer without success is followed by the same request on the older path, if there is one. If
   that succeeds, its answer counts, else the first one.
3. No redirects, no cookies, no proxies from the environment, no compression; an answer is read up
   to a limit, within a time limit for the whole exchange.

Spec: application service API, "Homeserver -> Application Service API", "Legacy routes".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Self
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from homeserver import limits
from homeserver.rules.appservices.registrations import AppService

_V1 = "/_matrix/app/v1"


class NoAnswer(Enum):
    """Why there is no answer."""

    NO_URL = "no_url"
    """The registration has no URL."""
    TIMEOUT = "timeout"
    """It took too long."""
    FAILED = "failed"
    """No connection, a connection that broke, or an answer that isn't HTTP or is too large."""


class AppServiceUnreachable(Exception):
    """A service gave no answer; `reason` says why."""

    def __init__(self, reason: NoAnswer, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason


class AppServiceRequest(NamedTuple):
    """A request: `path` below `/_matrix/app/v1`; `legacy` is the whole older path, "" where there
    is none; `body` is JSON; `timeout_s` is `APPSERVICE_QUERY_S` if none is given."""

    method: str
    path: str
    legacy: str = ""
    query: Mapping[str, str] = {}
    body: bytes | None = None
    timeout_s: float | None = None


class AppServiceAnswer(NamedTuple):
    """What a service answered."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        """Returns whether it is a success."""
        return self.status // 100 == 2


class AppServiceClient:
    """Sends requests to application services, as long as its block lasts."""

    def __init__(self) -> None:
        """*Precondition:* an event loop runs."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=limits.APPSERVICE_CONNECTIONS,
                limit_per_host=limits.APPSERVICE_CONNECTIONS_EACH,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "Freehold", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()

    async def ask(self, service: AppService, request: AppServiceRequest) -> AppServiceAnswer:
        """Returns the answer, whatever its status. Raises AppServiceUnreachable."""
        answer = await self.exchange(service, request, _V1 + request.path, request.query)
        if answer.is_success or not request.legacy:
            return answer
        query = {**request.query, "access_token": service.hs_token}
        older = await self.exchange(service, request, request.legacy, query)
        return older if older.is_success else answer

    async def exchange(
        self,
        service: AppService,
        request: AppServiceRequest,
        path: str,
        query: Mapping[str, str],
    ) -> AppServiceAnswer:
        """Sends one request to a path as it is on the wire."""
        if service.url is None:
            raise AppServiceUnreachable(NoAnswer.NO_URL, service.service_id)
        target = f"{service.url}{path}?{urlencode(query)}" if query else f"{service.url}{path}"
        headers = {"Authorization": f"Bearer {service.hs_token}"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        timeout_s = request.timeout_s or limits.APPSERVICE_QUERY_S
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    request.method,
                    URL(target, encoded=True),
                    data=request.body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as response,
            ):
                return AppServiceAnswer(response.status, await _read(response))
        except TimeoutError as error:
            detail = f"no answer within {timeout_s} s"
            raise AppServiceUnreachable(NoAnswer.TIMEOUT, detail) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AppServiceUnreachable(NoAnswer.FAILED, type(error).__name__) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > limits.APPSERVICE_ANSWER_BYTES:
            raise ValueError("the answer is too large")
        parts.append(chunk)
    return b"".join(parts)
