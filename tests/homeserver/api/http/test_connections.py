"""Connections that are opened and left: they crowd out nobody, and what they began is given up."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import orjson
import pytest
from aiohttp import web

from federation.errors import MatrixError
from homeserver import limits
from homeserver.api.http import connections
from homeserver.api.http.app import HttpApp
from homeserver.api.http.body import read_body
from homeserver.api.http.server import HttpServer
from homeserver.config import Listener
from homeserver.process import raise_file_limit
from tests.federation.transport.memory_ports import JumpingClock

HALF = b"POST / HTTP/1.1\r\nHost: x\r\n"
WHOLE = HALF + b"Content-Length: 0\r\n\r\n"
HOST = "127.0.0.1"


class Reading:
    """An edge that reads the body of each request; requests to /wait wait for `let_go`."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.waiting = 0

    async def has_waiting(self, count: int) -> None:
        """Returns when so many requests wait."""
        while self.waiting < count:
            await asyncio.sleep(0)

    async def handle(self, http: web.BaseRequest, *, is_behind_proxy: bool) -> web.StreamResponse:
        """How many bytes the body has, or why it can't be read."""
        if http.path == "/wait":
            self.waiting += 1
            await self.let_go.wait()
        try:
            return web.Response(text=str(len(await read_body(http, 1_000))))
        except MatrixError as error:
            return web.Response(status=error.status)


@asynccontextmanager
async def listening(
    *, behind_proxy: bool = False, clock: JumpingClock | None = None
) -> AsyncIterator[tuple[int, Reading]]:
    """A server's port and its edge."""
    edge = Reading()
    listener = Listener(address=f"{HOST}:0", behind_proxy=behind_proxy)
    http = HttpServer(cast(HttpApp, edge), [listener], clock)
    await http.start()
    try:
        yield http.addresses[0][1], edge
    finally:
        edge.let_go.set()
        await http.stop()


async def begun(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which some bytes were sent."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def answered(port: int, data: bytes, *, end: bool = False) -> bytes:
    """All that the server answers until it closes."""
    reader, writer = await begun(port, data)
    if end:
        writer.write_eof()
    async with asyncio.timeout(30):
        found = await reader.read()
    writer.close()
    return found


def last(data: bytes) -> bytes:
    """A whole request after whose answer the connection is closed."""
    return data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def status(answer: bytes) -> bytes:
    """The status of an answer, empty where there is none."""
    return answer[9:12]


Begun = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


async def ended(held: Begun) -> list[bytes]:
    """What came on connections until the server closed them."""
    async with asyncio.timeout(30):
        return [await reader.read() for reader, _ in held]


async def all_answered(held: Begun) -> bool:
    """Whether the rest of half-sent requests is answered on each of these connections."""
    statuses = []
    for reader, writer in held:
        writer.write(b"Content-Length: 0\r\n\r\n")
        async with asyncio.timeout(60):
            statuses.append(status(await reader.readuntil(b"\r\n\r\n0")))
    return statuses == [b"200"] * len(held)


def close(held: Begun) -> None:
    for _, writer in held:
        writer.close()


async def test_a_thousand_half_sent_requests_lock_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that have waited longest, down to the bound; what is newer isn't."""
    monkeypatch.setattr(limits, "CONNECTIONS_WAITING", 20)
    clock = JumpingClock()
    async with listening(clock=clock) as (port, _):
        held = [await begun(port, HALF) for _ in range(100)]
        clock.jump(limits.CONNECTION_WAIT_S - 1)
        assert status(await answered(port, last(WHOLE))) == b"200"
        assert not any(reader.at_eof() for reader, _ in held)
        clock.jump(1)
        assert status(await answered(port, last(WHOLE))) == b"200"
        assert await ended(held[:81]) == [b""] * 81
        assert await all_answered(held[81:])
        close(held)


async def test_a_connection_that_was_answered_waits_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_WAITING", 2)
    clock = JumpingClock()
    async with listening(clock=clock) as (port, _):
        held = [await begun(port, HALF) for _ in range(2)]
        clock.jump(limits.CONNECTION_WAIT_S)
        assert await all_answered(held[:1])
        assert status(await answered(port, last(WHOLE))) == b"200"
        assert await ended(held[1:]) == [b""]
        held[0][1].write(HALF)
        assert await all_answered(held[:1])
        close(held)


async def test_an_address_has_so_many_connections_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one takes the place of the one that has waited longest, at once."""
    monkeypatch.setattr(limits, "CONNECTIONS_PER_ADDRESS", 5)
    async with listening(clock=JumpingClock()) as (port, _):
        held = [await begun(port, HALF) for _ in range(5)]
        assert status(await answered(port, last(WHOLE))) == b"200"
        assert await ended(held[:1]) == [b""]
        assert await all_answered(held[1:])
        close(held)


@pytest.mark.parametrize("behind_proxy", [False, True])
async def test_all_addresses_have_so_many_connections(
    behind_proxy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait give way; without one the new one is closed."""
    monkeypatch.setattr(connections, "connections_max", lambda: 3)
    wait = WHOLE.replace(b"POST / ", b"POST /wait ")
    async with listening(behind_proxy=behind_proxy) as (port, edge):
        held = [await begun(port, wait) for _ in range(2)]
        await edge.has_waiting(2)
        halves = [await begun(port, HALF) for _ in range(2)]
        assert await ended(halves[:1]) == [b""]
        assert await all_answered(halves[1:])
        held.append(await begun(port, wait))
        await edge.has_waiting(3)
        assert await ended(halves) == [b"", b""]
        assert await answered(port, b"") == b""
        edge.let_go.set()
        assert [status(await one.readuntil(b"\r\n\r\n0")) for one, _ in held] == [b"200"] * 3
        close(held + halves)


def test_connections_leave_files_for_all_else() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = connections.connections_max()
    assert most <= limits.CONNECTIONS
    assert soft == resource.RLIM_INFINITY or most <= soft * limits.CONNECTIONS_SHARE_OF_FILES


BURST = 1_500
"""Of a client of many users, or of a reverse proxy."""


@pytest.fixture
def many_files() -> Iterator[None]:
    """Files for both ends of so many connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_file_limit()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
async def test_a_burst_of_connections_is_answered_whole() -> None:
    """All are open before the first request is sent whole."""
    async with listening() as (port, _):
        held: Begun = []
        for _ in range(BURST // 50):  # the listener's queue takes no more at once
            held += await asyncio.gather(*(begun(port, HALF) for _ in range(50)))
        assert await all_answered(held)
        close(held)


async def test_what_is_being_answered_is_not_crowded_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_WAITING", 5)
    monkeypatch.setattr(limits, "CONNECTIONS_PER_ADDRESS", 12)
    wait = WHOLE.replace(b"POST / ", b"POST /wait ")
    async with listening() as (port, edge):
        held = [await begun(port, wait) for _ in range(12)]
        await edge.has_waiting(12)
        assert await answered(port, b"") == b""  # one too many
        edge.let_go.set()
        async with asyncio.timeout(30):
            for reader, writer in held:
                assert (await reader.readline()).split()[1] == b"200"
                writer.close()


async def test_behind_a_proxy_addresses_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_WAITING", 2)
    async with listening(behind_proxy=True) as (port, _):
        held = [await begun(port, HALF) for _ in range(5)]
        for reader, writer in held:
            writer.write(b"Content-Length: 0\r\n\r\n")
            async with asyncio.timeout(30):
                assert (await reader.readline()).split()[1] == b"200"
            writer.close()


@pytest.mark.parametrize("before", [b"", WHOLE])
@pytest.mark.parametrize("begin", [b"P", HALF])
async def test_headers_have_a_deadline(
    before: bytes, begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADERS_S", 0.05)
    async with listening() as (port, _):
        reader, writer = await begun(port, before)
        async with asyncio.timeout(30):
            if before:
                assert (await reader.readuntil(b"\r\n\r\n0")).split()[1] == b"200"
            writer.write(begin)
            found = await reader.read()
        writer.close()
    assert found.split(b" ")[1] == b"408"
    assert orjson.loads(found.partition(b"\r\n\r\n")[2])["errcode"] == "M_UNKNOWN"


async def test_a_request_that_came_whole_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADERS_S", 0.05)
    async with listening() as (port, edge):
        reader, writer = await begun(port, WHOLE.replace(b"POST / ", b"POST /wait "))
        await edge.has_waiting(1)
        await asyncio.sleep(2 * limits.HEADERS_S)
        edge.let_go.set()
        async with asyncio.timeout(30):
            assert (await reader.readline()).split()[1] == b"200"
        writer.close()


CHUNKED = HALF + b"Transfer-Encoding: chunked\r\n"
GZIP = b"Content-Encoding: gzip\r\n"
HALVES = {
    "half a body": HALF + b"Content-Length: 100\r\n\r\nabc",
    "half a chunk": CHUNKED + b"\r\n64\r\nabc",
    "half of gzip": HALF + GZIP + b"Content-Length: 50\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03",
}
BROKEN = {
    "no chunk": CHUNKED + b"\r\nzz\r\nabc\r\n",
    "no gzip": HALF + GZIP + b"Content-Length: 9\r\n\r\nnot gzip!",
    "no gzip in chunks": CHUNKED + GZIP + b"\r\n9\r\nnot gzip!\r\n0\r\n\r\n",
}


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged as an error of ours."""
    return [one for one in caplog.records if one.exc_info or one.levelno >= logging.ERROR]


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_body_is_the_senders_fault(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as (port, _):
        reader, writer = await begun(port, BROKEN[kind])
        async with asyncio.timeout(30):
            assert (await reader.readline()).split()[1] == b"400"
        writer.close()
    assert not errors(caplog)


@pytest.mark.parametrize("kind", HALVES)
async def test_half_a_body_is_given_up(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.05)
    monkeypatch.setattr(limits, "LINGER_S", 0.05)
    async with listening() as (port, _):
        found = await answered(port, HALVES[kind])
        assert found.split()[1] == b"408"
    assert not errors(caplog)


@pytest.mark.parametrize("kind", HALVES)
async def test_who_goes_in_the_middle_of_a_body_leaves_no_error(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as (port, _):
        assert await answered(port, HALVES[kind], end=True) == b""
    assert not errors(caplog)
