"""The connections of a listener: bounded for each network address, with a deadline for headers.

Rules:
1. A network address (of IPv6: a /64) may have `CONNECTIONS_WAITING` connections on which no request
   is being answered, and, for a short time, more: a proxy, or a starting client, opens hundreds
   before the first request arrives. When a new one exceeds the bound, connections that have waited
   for `CONNECTION_WAIT_S` are closed, the longest-waiting first: half-sent requests displace each
   other, but not those of other addresses, nor the next complete request of the same address.
2. In total an address may have `CONNECTIONS_PER_ADDRESS`. For a further one the longest-waiting one
   is closed, however short its wait; if none waits, the new one is closed. Behind a proxy all
   connections are the proxy's, so neither bound applies there.
3. All addresses and listeners together may have `connections_max`, so that file descriptors are
   left for other uses. Beyond it the longest-waiting connection of all is closed, as in rule 2.
4. Headers arrive within `HEADERS_S` of the connection, or of their first byte; then 408.
5. A request that isn't HTTP, or is too long, is answered in JSON like any other. Only the kind of
   the error is logged: a request line may contain an access token. A body that breaks off, or whose
   framing or compression is broken, is the sender's error, not ours.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestPayloadError

from federation.causes import address_cause
from federation.errors import MatrixError
from federation.ports import Clock
from homeserver import limits
from homeserver.api.http.cors import ClientHeaders
from homeserver.api.http.response import JSON_TYPE, to_json

_log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def connections_max() -> int:
    """Returns the maximum number of all connections: a share of the files that may be open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = limits.OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    return min(limits.CONNECTIONS, int(files * limits.CONNECTIONS_SHARE_OF_FILES))


class OpenConnections:
    """The connections of one network address, or of all."""

    def __init__(self) -> None:
        self.count = 0
        self.waiting: dict[_Connection, None] = {}
        """Connections on which no request is being answered, the longest-waiting first."""

    def close_longest(self) -> bool:
        """Closes the longest-waiting connection; False if none waits."""
        longest = next(iter(self.waiting), None)
        if longest is None:
            return False
        longest.give_way()
        return True


class Connections(web.Server):
    """Creates a `_Connection` for each connection, and counts them."""

    def __init__(
        self, handler: Handler, *, is_bounded: bool, clock: Clock, in_all: OpenConnections
    ) -> None:
        """`is_bounded`: by address (rules 1 and 2). `in_all`: of all listeners."""
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=limits.KEEP_ALIVE_S,
            lingering_time=limits.LINGER_S,
            max_line_size=limits.REQUEST_LINE_BYTES,
            max_field_size=limits.HEADER_BYTES,
        )
        self._is_bounded, self._clock = is_bounded, clock
        self._in_all, self._in_all_max = in_all, connections_max()
        self._by_network: dict[str, OpenConnections] = {}

    def __call__(self) -> _Connection:
        """Returns a new connection's protocol."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def enter(self, connection: _Connection) -> bool:
        """Counts a connection; False if it exceeds the bounds."""
        own = self._by_network.get(connection.network) or OpenConnections()
        if self._is_bounded and not self._has_space(own):
            return False
        if self._in_all.count >= self._in_all_max and not self._in_all.close_longest():
            return False
        # The closed one may have been the last one of the address.
        own = self._by_network.setdefault(connection.network, own)
        own.count += 1
        self._in_all.count += 1
        self.wait(connection)
        return True

    def leave(self, connection: _Connection) -> None:
        """Removes an ended connection from the count."""
        self.work(connection)
        own = self._by_network[connection.network]
        own.count -= 1
        self._in_all.count -= 1
        if not own.count:
            del self._by_network[connection.network]

    def wait(self, connection: _Connection) -> None:
        """Notes that the connection waits for a request."""
        connection.waits_since_s = self._clock.monotonic_s()
        self._by_network[connection.network].waiting[connection] = None
        self._in_all.waiting[connection] = None

    def work(self, connection: _Connection) -> None:
        """Notes that the connection has a request, or has ended."""
        connection.waits_since_s = None
        self._by_network[connection.network].waiting.pop(connection, None)
        self._in_all.waiting.pop(connection, None)

    def _has_space(self, own: OpenConnections) -> bool:
        since_s = self._clock.monotonic_s() - limits.CONNECTION_WAIT_S
        while len(own.waiting) >= limits.CONNECTIONS_WAITING:
            longest = next(iter(own.waiting))
            if longest.waits_since_s is None or longest.waits_since_s > since_s:
                break
            longest.give_way()
        return own.count < limits.CONNECTIONS_PER_ADDRESS or own.close_longest()


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_connections", "_deadline", "_is_counted", "network", "waits_since_s")

    def __init__(
        self, connections: Connections, *, loop: asyncio.AbstractEventLoop, **options: Any
    ) -> None:
        super().__init__(connections, loop=loop, **options)
        self._connections = connections
        self._deadline: asyncio.TimerHandle | None = None
        self._is_counted = False
        self.network = ""
        self.waits_since_s: float | None = None
        """The time at which it began to wait for a request, or for all of its headers; None: it
        isn't waiting.
        """

    def give_way(self) -> None:
        """Closes the connection in favour of another one."""
        self.force_close()
        self._leave()

    def _leave(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._connections.leave(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts, unless the address has too many connections."""
        peer = transport.get_extra_info("peername")
        self.network = address_cause(peer[0]).name if isinstance(peer, tuple) else ""
        super().connection_made(transport)
        self._is_counted = self._connections.enter(self)
        if self._is_counted:
            self._await_headers()
        else:
            _log.info("too many connections from %s", self.network)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends."""
        self._leave()
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receives data, and checks whether a request's headers are complete."""
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self._headers_are_there()
            if self._is_counted:
                self._connections.work(self)
        elif self._deadline is None and data and self.waits_since_s is not None:
            self._await_headers()

    async def _handle_request(self, *args: Any, **options: Any) -> tuple[web.StreamResponse, bool]:
        """Answers a request, to the last byte; then the connection waits for the next one."""
        try:
            return await super()._handle_request(*args, **options)
        finally:
            if self._is_counted and not self._messages:
                self._connections.wait(self)

    def _await_headers(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(limits.HEADERS_S, self._give_up)

    def _headers_are_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        """Closes the connection: the headers didn't arrive in time."""
        self._deadline = None
        if self.waits_since_s is None or self.transport is None:
            return
        body = to_json(MatrixError(408, "M_UNKNOWN", "The request didn't come in time").body())
        head = (
            "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
            f"Content-Type: {JSON_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.force_close()

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Skips errors of a body that can't be read to its end, after the response: they aren't
        ours.
        """
        if isinstance(options.get("exc_info"), RequestPayloadError | ConnectionError):
            _log.info("a body from %s broke off", self.network)
        else:
            super().log_exception(*args, **options)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Returns the response to a request that aiohttp couldn't parse; the connection is closed
        after it.
        """
        if status >= 500:
            _log.error("a request from %s failed", request.remote, exc_info=exc)
        else:
            _log.info("unreadable request from %s: %s", request.remote, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        error = MatrixError(status, "M_UNKNOWN", "The request isn't readable as HTTP")
        if isinstance(exc, LineTooLong):
            error = MatrixError(414, "M_TOO_LARGE", "The request line or a header is too long")
        headers = ClientHeaders().answer()
        headers["Content-Type"] = JSON_TYPE
        response = web.Response(status=error.status, body=to_json(error.body()), headers=headers)
        response.force_close()
        return response
