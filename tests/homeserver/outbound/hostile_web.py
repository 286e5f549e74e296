"""A web server that misbehaves, on sockets of its own, and a resolver that answers as it likes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from homeserver.outbound.web_client import WebClient
from homeserver.rules.media.web_addresses import WebPolicy, parse_networks

Script: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"
"""The tests' policies permit the first address and not the second."""


@dataclass
class HostileWeb:
    """Answers by paths: with bytes, as they are, or as a script likes. `asked` are the paths of
    requests, `seen` their headers; `lookups` the names that were looked up."""

    port: int = 0
    pages: dict[str, bytes | Script] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    seen: list[Mapping[str, str]] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    names: dict[str, Sequence[str]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str, host: str = PUBLIC) -> str:
        """The URL of a path."""
        return f"http://{host}:{self.port}{path}"

    def policy(self, **more: object) -> WebPolicy:
        """Permits this server's port and first address."""
        allowed = parse_networks([PUBLIC])
        return WebPolicy(ports=frozenset({self.port, 80}), allowed_networks=allowed, **more)  # type: ignore[arg-type]

    async def look_up(self, host: str) -> tuple[str, ...]:
        """Stands for DNS: each time the next of the addresses of a name, the last for ever."""
        self.lookups.append(host)
        if host not in self.names:
            raise OSError("no such name")
        addresses = self.names[host]
        times = self.lookups.count(host)
        return (addresses[min(times, len(addresses)) - 1],)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request and closes the connection."""
        path = ""
        task = asyncio.current_task()
        assert task is not None, "a connection is a task"
        self.serving.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            path = first.split(" ")[1]
            self.asked.append(path)
            self.seen.append(dict(line.split(": ", 1) for line in lines if line))
            page = self.pages.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            if isinstance(page, bytes):
                writer.write(page)
                await writer.drain()
            else:
                await page(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.ended.append(path)
        finally:
            self.serving.discard(task)
            writer.close()


def answer(body: bytes, content_type: str = "text/html", *headers: str) -> bytes:
    """An ordinary answer."""
    lines = [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return b"HTTP/1.1 200 OK\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(url: str, status: int = 302) -> bytes:
    """A redirect."""
    return f"HTTP/1.1 {status} Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()


async def endless(writer: asyncio.StreamWriter) -> None:
    """A body without an end, as quickly as it is read."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>endless</title>")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def silent(writer: asyncio.StreamWriter) -> None:
    """No answer, as long as the client waits."""
    await writer.wait_closed()


async def slow(writer: asyncio.StreamWriter) -> None:
    """A body that comes byte by byte."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def hostile_web() -> AsyncIterator[HostileWeb]:
    """Runs the server on both addresses, with one port."""
    web = HostileWeb()
    first = await asyncio.start_server(web.serve, PUBLIC, 0)
    web.port = first.sockets[0].getsockname()[1]
    second = await asyncio.start_server(web.serve, PRIVATE, web.port)
    try:
        yield web
    finally:
        for server in (first, second):
            server.close()
        # A page that waits doesn't see that its client has gone.
        waiting = list(web.serving)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@asynccontextmanager
async def web_client(web: HostileWeb, policy: WebPolicy | None = None) -> AsyncIterator[WebClient]:
    """A client that asks the server's resolver."""
    client = WebClient(web.look_up, policy or web.policy(), ssl.create_default_context())
    try:
        yield client
    finally:
        await client.close()
