"""Requests to web servers that users, or pages, name.

Rules:
1. The address is checked at the last moment: each socket is made for an address that the policy
   permits, whatever a name meant before (DNS rebinding), and for every redirect anew.
2. Redirects are followed a bounded number of times, if at all; each target passes the policy's
   check of URLs.
3. No cookies, no credentials, no proxies from the environment; nothing is decompressed.
4. One time limit covers the request with its redirects. A body is read up to a limit, and then
   cut or refused.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from homeserver import limits
from homeserver.rules.media.web_addresses import InvalidWebAddress, WebPolicy, join_web_address

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Lookup = Callable[[str], Awaitable[tuple[str, ...]]]
"""Addresses of a host name; raises OSError where there are none."""


class WebFailure(Enum):
    """The reason why there is no answer."""

    TIMEOUT = "timeout"
    """Too slow to connect, or to answer."""
    REFUSED = "refused"
    """No such host, or no connection."""
    ADDRESS = "address"
    """The host's addresses aren't permitted."""
    CERTIFICATE = "certificate"
    """TLS failed."""
    BROKEN = "broken"
    """The connection broke, or the answer isn't HTTP."""
    TOO_LARGE = "too_large"
    """The answer is larger than the limit."""
    REDIRECT = "redirect"
    """A redirect that isn't followed: one too many, or to a URL that isn't permitted."""


class WebError(Exception):
    """No usable answer; `kind` says why."""

    def __init__(self, kind: WebFailure, detail: str) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind = kind


class AddressRefused(OSError):
    """The policy doesn't permit an address."""


@dataclass(frozen=True, slots=True)
class WebRequest:
    """An HTTP request."""

    method: str
    url: yarl.URL
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class WebBounds:
    """The bounds of one request. `cuts`: a longer body is cut, not refused."""

    timeout_s: float
    bytes_max: int
    redirects: int = 0
    cuts: bool = False


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """An answer: the URL that gave it, after redirects; header names are lower-case. `is_cut`: the
    body was longer than the limit."""

    url: yarl.URL
    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool = False


class _Names(AbstractResolver):
    """Gives aiohttp the addresses of names."""

    def __init__(self, lookup: Lookup, policy: WebPolicy) -> None:
        self._lookup, self._policy = lookup, policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the permitted addresses of a host. Raises OSError."""
        addresses = await self._lookup(host)
        permitted = [one for one in addresses if self._policy.permits_address(one)]
        if not permitted:
            raise AddressRefused(f"no address of {host} is permitted")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in permitted
        ]

    async def close(self) -> None:
        """Nothing is open."""


class WebClient:
    """Connections to web servers. Make it inside a running event loop; `close` it."""

    def __init__(self, lookup: Lookup, policy: WebPolicy, tls: ssl.SSLContext) -> None:
        self._policy = policy
        connector = aiohttp.TCPConnector(
            ssl=tls,
            limit=limits.WEB_CONNECTIONS,
            force_close=True,
            use_dns_cache=False,
            resolver=_Names(lookup, policy),
            socket_factory=self._make_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    async def request(self, request: WebRequest, bounds: WebBounds) -> WebAnswer:
        """Returns the answer of a web server. Raises WebError."""
        url = request.url
        try:
            async with asyncio.timeout(bounds.timeout_s):
                for _ in range(bounds.redirects + 1):
                    found = await self._one(request, url, bounds)
                    if isinstance(found, WebAnswer):
                        return found
                    url = found
        except TimeoutError as error:
            raise WebError(WebFailure.TIMEOUT, f"{url.raw_host}: no answer in time") from error
        except InvalidWebAddress as error:
            raise WebError(WebFailure.REDIRECT, str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise WebError(_kind_of(error), str(error)) from error
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            # aiohttp raises ValueError for a malformed status line, header or chunk
            raise WebError(WebFailure.BROKEN, f"{type(error).__name__}: {error}") from error
        raise WebError(WebFailure.REDIRECT, "too many redirects")

    async def _one(
        self, request: WebRequest, url: yarl.URL, bounds: WebBounds
    ) -> WebAnswer | yarl.URL:
        """Returns the answer at one URL, or where it redirects to."""
        async with self._session.request(
            request.method,
            url,
            data=request.body,
            headers={
                "User-Agent": "Mozilla/5.0 (compatible; Freehold)",
                "Accept-Encoding": "identity",
                **request.headers,
            },
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.WEB_CONNECT_S),
        ) as response:
            location = response.headers.get("Location")
            if bounds.redirects and response.status in _REDIRECTS and location is not None:
                return join_web_address(url, location, self._policy)
            body = await _read(response, bounds)
            headers = {name.lower(): value for name, value in response.headers.items()}
            is_cut = len(body) > bounds.bytes_max
            return WebAnswer(url, response.status, headers, body[: bounds.bytes_max], is_cut)

    def _make_socket(self, address: Any) -> socket.socket:
        """Makes the socket for an address, as the connector would, if the policy permits it."""
        family, kind, protocol, _, (host, *_) = address
        if not self._policy.permits_address(host):
            raise AddressRefused(f"{host} isn't permitted")
        return socket.socket(family=family, type=kind, proto=protocol)


async def _read(response: aiohttp.ClientResponse, bounds: WebBounds) -> bytes:
    """Returns the body, or more of it than the limit if it is to be cut."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(limits.WEB_PART_BYTES):
        parts.append(part)
        size += len(part)
        if size > bounds.bytes_max:
            response.close()
            if not bounds.cuts:
                raise WebError(WebFailure.TOO_LARGE, f"more than {bounds.bytes_max} bytes")
            break
    return b"".join(parts)


_KINDS: Final = (
    (aiohttp.ClientConnectorCertificateError, WebFailure.CERTIFICATE),
    (aiohttp.ClientSSLError, WebFailure.CERTIFICATE),
)


def _kind_of(error: aiohttp.ClientConnectorError) -> WebFailure:
    for kind, failure in _KINDS:
        if isinstance(error, kind):
            return failure
    if isinstance(error.os_error, AddressRefused):
        return WebFailure.ADDRESS
    return WebFailure.REFUSED
