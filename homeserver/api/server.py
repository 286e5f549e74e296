"""The listening sockets: plain HTTP, or TLS where a listener has a certificate.

Rules:
1. Sockets are opened by `start`, which is called last, when requests can be answered.
2. `stop` closes the sockets, lets requests that are being answered end for `SERVER_STOP_S`, and
   cancels the rest (long polls).
3. What isn't HTTP, or is too long, is answered in JSON as all else is. It reaches the log by its
   kind alone: a request line may hold an access token.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from functools import partial

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from homeserver import limits
from homeserver.api.answer import JSON_TYPE, to_json
from homeserver.api.cors import ClientHeaders
from homeserver.api.edge import Edge
from homeserver.config import Listener
from homeserver.errors import MatrixError

_log = logging.getLogger(__name__)


class HttpServer:
    """Serves one edge on every listener of the configuration."""

    def __init__(self, edge: Edge, listeners: Sequence[Listener]) -> None:
        self._edge, self._listeners = edge, listeners
        self._runners: list[web.ServerRunner] = []
        self.addresses: list[tuple[str, int]] = []

    async def start(self) -> None:
        """Opens the sockets. Raises OSError (address in use) or ssl.SSLError (bad certificate)."""
        for listener in self._listeners:
            await self._open(listener)

    async def stop(self) -> None:
        """Closes the sockets and ends what is being answered."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _open(self, listener: Listener) -> None:
        handler = partial(self._edge.handle, is_behind_proxy=listener.behind_proxy)
        server = _Server(
            handler,
            access_log=None,
            keepalive_timeout=limits.KEEP_ALIVE_S,
            lingering_time=limits.LINGER_S,
            max_line_size=limits.REQUEST_LINE_BYTES,
            max_field_size=limits.HEADER_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=limits.SERVER_STOP_S)
        await runner.setup()
        self._runners.append(runner)
        host, port = listener.host_and_port()
        site = web.TCPSite(
            runner, host, port, ssl_context=tls_context(listener), backlog=limits.LISTEN_BACKLOG
        )
        await site.start()
        self.addresses.extend((name[0], name[1]) for name in runner.addresses)
        _log.info("listening on %s%s", listener.address, " (TLS)" if listener.is_tls else "")


class _Connection(web.RequestHandler):
    """One connection; answers what can't be read as a request (rule 3)."""

    __slots__ = ()

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


class _Server(web.Server):
    """Makes a `_Connection` of each connection."""

    def __call__(self) -> _Connection:
        """A new connection's protocol."""
        return _Connection(self, loop=self._loop, **self._kwargs)


def tls_context(listener: Listener) -> ssl.SSLContext | None:
    """The TLS settings of a listener, None for plain HTTP. Raises ssl.SSLError or OSError."""
    if not listener.is_tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(listener.tls_cert_path, listener.tls_key_path)
    return context
