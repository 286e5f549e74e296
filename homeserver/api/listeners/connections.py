"""The connections of a listener: bounded for each network address, with a deadline for headers.

Rules:
1. A network address (of IPv6: a /64) keeps `CONNECTIONS_WAITING` connections on which no request is
   being answered. For a new one beyond that, the one that has waited longest is closed: half-sent
   requests crowd out each other, and nobody else's, nor the next whole request of the same address.
2. In all an address has `CONNECTIONS_PER_ADDRESS`; further ones are closed at once. Behind a proxy
   all connections are the proxy's, so neither bound holds there.
3. Headers come within `HEADERS_S` of the connection, or of their first byte; then 408.
4. What isn't HTTP, or is too long, is answered in JSON as all else is. It reaches the log by its
   kind alone: a request line may hold an access token. A body that breaks off, or whose framing or
   compression is broken, is the sender's fault and no error of ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestPayloadError

from federation.causes import address_cause
from homeserver import limits
from homeserver.api.answer import JSON_TYPE, to_json
from homeserver.api.cors import ClientHeaders
from homeserver.errors import MatrixError

_log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connections(web.Server):
    """Makes a `_Connection` of each connection, and counts them."""

    def __init__(self, handler: Handler, *, is_bounded: bool) -> None:
        """`is_bounded`: by address (rules 1 and 2)."""
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=limits.KEEP_ALIVE_S,
            lingering_time=limits.LINGER_S,
            max_line_size=limits.REQUEST_LINE_BYTES,
            max_field_size=limits.HEADER_BYTES,
        )
        self._is_bounded = is_bounded
        self._by_address: dict[str, dict[_Connection, None]] = {}  # in the order they came

    def __call__(self) -> _Connection:
        """A new connection's protocol."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def enter(self, connection: _Connection) -> bool:
        """Counts a connection; False where it is one too many."""
        if not self._is_bounded:
            return True
        own = self._by_address.setdefault(connection.network, {})
        if len(own) >= limits.CONNECTIONS_WAITING:
            longest = next((one for one in own if one.is_waiting), None)
            if longest is not None:
                longest.force_close()
                own.pop(longest, None)
            elif len(own) >= limits.CONNECTIONS_PER_ADDRESS:
                return False
        own[connection] = None
        return True

    def leave(self, connection: _Connection) -> None:
        """The connection has ended."""
        own = self._by_address.get(connection.network, {})
        own.pop(connection, None)
        if not own:
            self._by_address.pop(connection.network, None)


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_connections", "_deadline", "network")

    def __init__(
        self, connections: Connections, *, loop: asyncio.AbstractEventLoop, **options: Any
    ) -> None:
        super().__init__(connections, loop=loop, **options)
        self._connections = connections
        self._deadline: asyncio.TimerHandle | None = None
        self.network = ""

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered: none has come, or not all of its headers."""
        return self._current_request is None and not self._messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts, unless the address has too many."""
        peer = transport.get_extra_info("peername")
        self.network = address_cause(peer[0]).name if isinstance(peer, tuple) else ""
        super().connection_made(transport)
        if self._connections.enter(self):
            self._await_headers()
        else:
            _log.info("too many connections from %s", self.network)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends."""
        self._connections.leave(self)
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes in what came, and sees whether a request's headers are complete."""
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self._headers_are_there()
        elif self._deadline is None and data and self.is_waiting:
            self._await_headers()

    def _await_headers(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(limits.HEADERS_S, self._give_up)

    def _headers_are_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        """The headers didn't come in time."""
        self._deadline = None
        if not self.is_waiting or self.transport is None:
            return
        body = to_json(MatrixError(408, "M_UNKNOWN", "The request didn't come in time").body())
        head = (
            "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
            f"Content-Type: {JSON_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.force_close()

    def log_exception(self, *args: Any, **options: Any) -> None:
        """A body that can't be read to its end, after the answer, isn't an error of ours."""
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
        """The answer to what aiohttp couldn't read; the connection is closed after it."""
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
