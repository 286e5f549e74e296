"""The one dialer of federation: connects to an address that was checked, with a name to prove.

Rules:
1. It connects to the very address that was checked; the name goes into SNI, the certificate check
   and the Host header. So nothing resolves twice (DNS rebinding).
2. Private, loopback and other special addresses are refused unless the configuration allows them
   all, or the endpoint says that an override gave permission for this name.
3. No redirects, no cookies, no proxies from the environment, no compression (a small answer must
   not become a large one), and the request target goes out byte for byte.
4. An answer is read up to a limit, within a time limit for the whole exchange and, where one is
   given, for each wait for its next bytes.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

import aiohttp
import yarl

from federation.limits import (
    ADDRESSES_TRIED_MAX,
    ANSWER_BYTES_MAX,
    CONNECT_S_MAX,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_HOST_MAX,
    ERROR_ANSWER_BYTES_MAX,
    IDLE_CONNECTION_S_MAX,
    READ_AT_ONCE_BYTES_MAX,
    REQUEST_S_MAX,
    WRITTEN_AT_ONCE_BYTES_MAX,
)
from federation.public_addresses import is_public_address
from federation.transport.scheduling.exchange_budget import Take


class DialFailure(Enum):
    """The reason why there is no answer."""

    TIMEOUT = "timeout"
    """Too slow to connect, or to answer in full."""
    REFUSED = "refused"
    """No connection: nothing was sent."""
    BROKEN = "broken"
    """The connection broke, or the answer isn't HTTP."""
    CERTIFICATE = "certificate"
    """TLS failed: no valid certificate for the name."""
    ADDRESS = "address"
    """All addresses are private or special ones, without permission."""
    TOO_LARGE = "too_large"
    """The answer is larger than the limit for it."""


class DialError(Exception):
    """No usable answer; `kind` says why."""

    def __init__(self, kind: DialFailure, detail: str) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind, self.detail = kind, detail


Sink = Callable[[bytes], Awaitable[None]]
"""Takes the parts of an answer's body."""

Receiver = Callable[[Mapping[str, str]], Sink]
"""Gets the headers of an answer with status 200, their names in lower case; returns what takes its
body."""


def _take_no_count(_count: int) -> None:
    """Counts nothing; for small answers."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address and the name to connect with. `may_be_private`: an override permits private
    addresses."""

    addresses: tuple[str, ...]
    port: int
    host_header: str
    tls_name: str
    may_be_private: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one exchange."""

    timeout_s: float = REQUEST_S_MAX
    bytes_max: int = ANSWER_BYTES_MAX
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP answer, read in full. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An HTTP request; `target` is sent as it stands."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None


def build_tls_context(ca_paths: Sequence[str], *, verify: bool) -> ssl.SSLContext:
    """Returns the system's authorities and those at `ca_paths` (PEM files)."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in ca_paths:
        context.load_verify_locations(cafile=path)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Dialer:
    """Pooled connections to other servers. Make it inside a running event loop; `close` it."""

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        allow_private: bool = False,
        connections_per_host: int = CONNECTIONS_PER_HOST_MAX,
    ) -> None:
        self._tls = tls
        self._allow_private = allow_private
        connector = aiohttp.TCPConnector(
            ssl=tls,
            limit=CONNECTIONS_MAX,
            limit_per_host=connections_per_host,
            keepalive_timeout=IDLE_CONNECTION_S_MAX,
            use_dns_cache=False,
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

    async def exchange(
        self,
        endpoint: Endpoint,
        request: Outgoing,
        bounds: Bounds,
        receiver: Receiver | None = None,
        take: Take = _take_no_count,
    ) -> HttpResponse:
        """Sends and reads the answer, trying the addresses in turn until one connects. `receiver`
        takes the body of an answer with status 200 as it comes; `take` counts the bytes of any.
        Raises DialError, and what these two do."""
        permitted = self._permitted(endpoint)
        read = partial(_read, bytes_max=bounds.bytes_max, receiver=receiver, take=take)
        failure: DialError | None = None
        try:
            async with asyncio.timeout(bounds.timeout_s):
                for address in permitted[:ADDRESSES_TRIED_MAX]:
                    try:
                        return await self._exchange_with(
                            address, endpoint, request, read, bounds.idle_s
                        )
                    except aiohttp.ClientConnectorCertificateError as error:
                        raise DialError(DialFailure.CERTIFICATE, str(error)) from None
                    except aiohttp.ClientConnectorError as error:
                        kind = _kind_of(error)
                        failure = DialError(kind, str(error))
                    except aiohttp.ConnectionTimeoutError:
                        failure = DialError(DialFailure.TIMEOUT, f"connecting to {address}")
        except aiohttp.SocketTimeoutError:
            raise DialError(DialFailure.TIMEOUT, f"nothing came for {bounds.idle_s} s") from None
        except TimeoutError:
            raise DialError(DialFailure.TIMEOUT, f"no answer in {bounds.timeout_s} s") from None
        except (aiohttp.ClientError, ssl.SSLError, ConnectionError, ValueError) as error:
            # aiohttp raises ValueError for a malformed status line, header or chunk
            raise DialError(DialFailure.BROKEN, f"{type(error).__name__}: {error}") from None
        assert failure is not None, "no address was tried"
        raise failure

    def _permitted(self, endpoint: Endpoint) -> list[str]:
        free = self._allow_private or endpoint.may_be_private
        permitted = [a for a in endpoint.addresses if free or is_public_address(a)]
        if not permitted:
            raise DialError(DialFailure.ADDRESS, f"no public address for {endpoint.tls_name}")
        return permitted

    async def _exchange_with(
        self,
        address: str,
        endpoint: Endpoint,
        request: Outgoing,
        read: Callable[[aiohttp.ClientResponse], Awaitable[bytes]],
        idle_s: float | None,
    ) -> HttpResponse:
        host = f"[{address}]" if ":" in address else address
        url = yarl.URL(f"https://{host}:{endpoint.port}{request.target}", encoded=True)
        async with self._session.request(
            request.method,
            url,
            data=_payload(request.body),
            headers={
                "Host": endpoint.host_header,
                "User-Agent": "Freehold",
                "Accept-Encoding": "identity",
                **request.headers,
            },
            ssl=self._tls,
            server_hostname=endpoint.tls_name,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX, sock_read=idle_s),
        ) as response:
            return HttpResponse(response.status, _headers_of(response), await read(response))


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """Returns the body; large ones are written in pieces, so that the loop isn't held up."""
    return io.BytesIO(body) if body is not None and len(body) > WRITTEN_AT_ONCE_BYTES_MAX else body


def _kind_of(error: aiohttp.ClientConnectorError) -> DialFailure:
    if isinstance(error, aiohttp.ClientSSLError):
        return DialFailure.CERTIFICATE
    return DialFailure.REFUSED


def _headers_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


async def _read(
    response: aiohttp.ClientResponse, *, bytes_max: int, receiver: Receiver | None, take: Take
) -> bytes:
    """Returns the body, unless the receiver took it; raises DialError as soon as it is seen to be
    too large."""
    if response.status != 200:
        receiver = None
        bytes_max = min(bytes_max, ERROR_ANSWER_BYTES_MAX)
    if response.content_length is not None and response.content_length > bytes_max:
        response.close()
        raise DialError(DialFailure.TOO_LARGE, f"{response.content_length} bytes")
    sink = None if receiver is None else receiver(_headers_of(response))
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(READ_AT_ONCE_BYTES_MAX):
        size += len(part)
        if size > bytes_max:
            response.close()
            raise DialError(DialFailure.TOO_LARGE, f"more than {bytes_max} bytes")
        take(len(part))
        if sink is None:
            parts.append(part)
        else:
            await sink(part)
    return b"".join(parts)
