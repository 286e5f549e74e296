"""The listening sockets: plain HTTP, or TLS if a listener has a certificate.

Rules:
1. Sockets are opened by `start`, which is called last, when requests can be answered.
2. `stop` closes the sockets, gives requests in progress `SERVER_STOP_S` to finish, and cancels the
   rest (long polls).
3. `check_addresses` detects a second start by mistake before it takes the log from the running
   process.
4. The TLS handshake is limited to `HEADERS_S`, like the headers (`connections`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from functools import partial

from aiohttp import web

from federation.ports import Clock
from homeserver import limits
from homeserver.api.http.app import HttpApp
from homeserver.api.http.connections import Connections, OpenConnections
from homeserver.clock import SystemClock
from homeserver.config import Listener

_log = logging.getLogger(__name__)


class CanNotListen(Exception):
    """An address is in use or isn't one of this machine; the text gives the reason and a hint."""


def check_addresses(listeners: Sequence[Listener]) -> None:
    """Checks that every listener's address can be listened at. Raises CanNotListen."""
    for listener in listeners:
        host, port = listener.host_and_port()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise CanNotListen(
                    f"{listener.address} can't be listened at: {error.strerror}."
                    " Does the server run already?"
                ) from error


class HttpServer:
    """Serves one app on every listener of the configuration."""

    def __init__(
        self, edge: HttpApp, listeners: Sequence[Listener], clock: Clock | None = None
    ) -> None:
        self._edge, self._listeners = edge, listeners
        self._clock, self._connections = clock or SystemClock(), OpenConnections()
        self._runners: list[web.ServerRunner] = []
        self._servers: list[asyncio.Server] = []
        self.addresses: list[tuple[str, int]] = []

    async def start(self) -> None:
        """Opens the sockets. Raises OSError (address in use) or ssl.SSLError (bad certificate)."""
        for listener in self._listeners:
            await self._open(listener)

    async def stop(self) -> None:
        """Closes the sockets and ends requests in progress."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _open(self, listener: Listener) -> None:
        handler = partial(self._edge.handle, is_behind_proxy=listener.behind_proxy)
        connections = Connections(
            handler,
            is_bounded=not listener.behind_proxy,
            clock=self._clock,
            in_all=self._connections,
        )
        runner = web.ServerRunner(connections, shutdown_timeout=limits.SERVER_STOP_S)
        await runner.setup()
        self._runners.append(runner)
        host, port = listener.host_and_port()
        context = tls_context(listener)
        server = await asyncio.get_running_loop().create_server(
            connections,
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=None if context is None else limits.HEADERS_S,
            backlog=limits.LISTEN_BACKLOG,
        )
        self._servers.append(server)
        names = [opened.getsockname() for opened in server.sockets]
        self.addresses.extend((name[0], name[1]) for name in names)
        _log.info("listening on %s%s", listener.address, " (TLS)" if listener.is_tls else "")


def tls_context(listener: Listener) -> ssl.SSLContext | None:
    """Returns the TLS settings of a listener, None for plain HTTP. Raises ssl.SSLError or
    OSError.
    """
    if not listener.is_tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(listener.tls_cert_path, listener.tls_key_path)
    return context
