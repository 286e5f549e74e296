"""How media are sent: whole or broken off, bounded for each server and for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestClient, make_mocked_request

from federation.causes import Cause, CauseKind, caused_by
from federation.errors import MatrixError
from federation.limits import (
    MEDIA_BYTES_PER_ORIGIN_BURST,
    MEDIA_BYTES_PER_ORIGIN_PER_S,
    MEDIA_SENT_BYTES,
    MEDIA_SENT_BYTES_MAX,
    MEDIA_SENT_BYTES_PER_ORIGIN_MAX,
    MEDIA_SENT_BYTES_PER_S_MIN,
    MEDIA_SENT_PATIENCE_S_MAX,
    MEDIA_WAITS_MAX,
    MEDIA_WAITS_PER_ORIGIN_MAX,
)
from federation.media_ports import ServedMedia
from federation.transport.routes.media import media_sender
from federation.transport.routes.media.media_sender import MediaSender
from tests.federation.transport.memory_media import pieces_of
from tests.federation.transport.memory_ports import JumpingClock, until

Client = TestClient[Any, Any]


def served(content: bytes, size: int | None = None) -> ServedMedia:
    """Return media that say that they have so many bytes."""
    size = len(content) if size is None else size
    return ServedMedia("image/png", "inline", size, pieces_of(content))


def cause(number: int) -> Cause:
    """Return another server."""
    return Cause(CauseKind.SERVER, f"s{number}.test")


class Site:
    """A web server whose answers are sent by one sender."""

    def __init__(self) -> None:
        self.clock = JumpingClock()
        self.sender = MediaSender(self.clock, lambda: "b")
        self.make: Callable[[], ServedMedia] = lambda: served(b"x" * 2_500)

    async def find(self, _wait_ms: int) -> ServedMedia:
        """Return what is sent next."""
        return self.make()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send it."""
        with caused_by(cause(1)):
            return await self.sender.send(request, self.find, wait_ms=0)


async def client_of(site: Site, stack: AsyncExitStack) -> Client:
    """Return a client of the site."""
    server = RawTestServer(site.handle)
    return await stack.enter_async_context(TestClient(server))


async def test_media_are_sent_in_their_frame_with_their_length() -> None:
    site = Site()
    async with AsyncExitStack() as stack:
        client = await client_of(site, stack)
        async with client.get("/") as answer:
            body = await answer.read()
        assert answer.headers["Content-Type"] == "multipart/mixed; boundary=b"
        assert answer.headers["Content-Length"] == str(len(body))
        assert body == (
            b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n"
            b"--b\r\nContent-Type: image/png\r\nContent-Disposition: inline\r\n\r\n"
            + b"x" * 2_500
            + b"\r\n--b--\r\n"
        )
        async with client.head("/") as answer:
            assert answer.headers["Content-Length"] == str(len(body))
            assert await answer.read() == b""


@pytest.mark.parametrize("size", [2_499, 2_501, 0, 10_000])
async def test_media_of_another_size_break_the_answer_off(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The receiver sees that it isn't whole."""
    site = Site()
    site.make = lambda: served(b"x" * 2_500, size)
    async with AsyncExitStack() as stack:
        client = await client_of(site, stack)
        with pytest.raises(aiohttp.ClientError):
            async with client.get("/") as answer:
                await answer.read()
    assert "broke off" in caplog.text


async def test_media_that_fail_in_the_middle_break_the_answer_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = []

    async def failing() -> AsyncGenerator[bytes, None]:
        try:
            yield b"x"
            raise RuntimeError("the store is gone")
        finally:
            closed.append(True)

    site = Site()
    site.make = lambda: ServedMedia("image/png", "inline", 2, failing())
    async with AsyncExitStack() as stack:
        client = await client_of(site, stack)
        with pytest.raises(aiohttp.ClientError):
            async with client.get("/") as answer:
                await answer.read()
    assert "the store is gone" in caplog.text
    assert closed == [True]


async def test_a_failure_before_the_first_piece_is_raised() -> None:
    async def failing(error: Exception | None) -> AsyncGenerator[bytes, None]:
        if error is not None:
            raise error
        yield b"x"

    away = MatrixError(503, "M_UNKNOWN", "the store is away")
    site = Site()
    site.make = lambda: ServedMedia("image/png", "inline", 1, failing(away))
    with pytest.raises(MatrixError, match="away"):
        await site.sender.send(make_mocked_request("GET", "/"), site.find, wait_ms=0)


@pytest.mark.parametrize("limit", ["MEDIA_SENT_PIECE_S_MAX", "MEDIA_SENT_S_MAX"])
async def test_a_server_that_does_not_take_its_media_is_broken_off(
    limit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(media_sender, limit, 0.2)
    site = Site()
    site.make = lambda: served(b"x" * 30_000_000)  # more than the sockets take in
    async with AsyncExitStack() as stack:
        client = await client_of(site, stack)
        async with client.get("/") as answer:
            await until(lambda: "broke off" in caplog.text)
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
    assert "TimeoutError" in caplog.text


@pytest.mark.parametrize(
    ("reader", "store", "is_whole"),
    [(1.05, 9.0, True), (0.95, 9.0, False), (0.95, 0.01, False), (1.05, 0.01, True)],
)
async def test_a_server_takes_its_media_at_a_rate(
    monkeypatch: pytest.MonkeyPatch, reader: float, store: float, is_whole: bool
) -> None:
    """`reader` and `store`: parts of the slowest rate. What the store is slow with isn't the
    reader's fault."""
    site, taken = Site(), web.StreamResponse.write
    patience_bytes = MEDIA_SENT_PATIENCE_S_MAX * MEDIA_SENT_BYTES_PER_S_MIN
    size = int(patience_bytes * 25 / MEDIA_SENT_BYTES) * MEDIA_SENT_BYTES

    async def take(response: web.StreamResponse, data: Any) -> None:
        site.clock.jump(len(data) / MEDIA_SENT_BYTES_PER_S_MIN / reader)
        await taken(response, data)

    async def pieces() -> AsyncGenerator[bytes, None]:
        for _ in range(size // MEDIA_SENT_BYTES):
            site.clock.jump(MEDIA_SENT_BYTES / MEDIA_SENT_BYTES_PER_S_MIN / store)
            yield b"x" * MEDIA_SENT_BYTES

    monkeypatch.setattr(web.StreamResponse, "write", take)
    site.make = lambda: ServedMedia("image/png", "inline", size, pieces())
    async with AsyncExitStack() as stack:
        client = await client_of(site, stack)
        async with client.get("/") as answer:
            if is_whole:
                assert len(await answer.read()) > size
            else:
                with pytest.raises(aiohttp.ClientError):
                    await answer.read()


async def test_a_server_that_does_not_take_the_end_is_broken_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait(_response: web.StreamResponse, _data: bytes = b"") -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(web.StreamResponse, "write_eof", wait)
    monkeypatch.setattr(media_sender, "MEDIA_SENT_PIECE_S_MAX", 0.05)
    async with AsyncExitStack() as stack:
        client = await client_of(Site(), stack)
        async with client.get("/"):
            await until(lambda: "broke off" in caplog.text)
    assert "TimeoutError" in caplog.text


class Held:
    """Many answers at once, each waiting for its media."""

    def __init__(self, site: Site) -> None:
        self.site, self.over = site, asyncio.Event()
        self.tasks: list[asyncio.Future[web.StreamResponse]] = []

    async def _wait(self, _wait_ms: int) -> ServedMedia:
        await self.over.wait()
        raise MatrixError(404, "M_NOT_FOUND", "none after all")

    async def ask(self, number: int) -> MatrixError | None:
        """Ask as a server; return the refusal, None where it waits."""
        with caused_by(cause(number)):
            request = make_mocked_request("GET", "/")
            task = asyncio.ensure_future(self.site.sender.send(request, self._wait, wait_ms=0))
        done, _ = await asyncio.wait([task], timeout=0)
        if done:
            error = task.exception()
            assert isinstance(error, MatrixError)
            return error
        self.tasks.append(task)
        return None

    async def end(self) -> None:
        """Let all go on."""
        self.over.set()
        for error in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert isinstance(error, MatrixError)
            assert error.status == 404
        self.tasks.clear()


async def test_so_many_are_sent_at_once_to_one_server_and_to_all() -> None:
    held = Held(Site())
    of_one = MEDIA_SENT_BYTES_PER_ORIGIN_MAX // MEDIA_SENT_BYTES
    for _ in range(of_one):
        assert await held.ask(0) is None
    refused = await held.ask(0)
    assert refused is not None
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    for number in range(of_one, MEDIA_SENT_BYTES_MAX // MEDIA_SENT_BYTES):
        assert await held.ask(number) is None
    refused = await held.ask(100_000)
    assert refused is not None
    assert refused.status == 503
    await held.end()
    held.over.clear()
    assert await held.ask(0) is None
    await held.end()


class Awaited:
    """Requests for media that are still to come."""

    def __init__(self, site: Site) -> None:
        self.site, self.came = site, asyncio.Event()
        self.waiting = 0
        self.tasks: list[asyncio.Future[web.StreamResponse]] = []

    async def _find(self, wait_ms: int) -> ServedMedia:
        if wait_ms and not self.came.is_set():
            self.waiting += 1
            await self.came.wait()
            self.waiting -= 1
        if self.came.is_set():
            return served(b"")
        raise MatrixError(504, "M_NOT_YET_UPLOADED", "still to come")

    async def ask(self, number: int, wait_ms: int = 60_000) -> bool:
        """Ask as a server; return whether it waits. Others are told that it is still to come."""
        before = self.waiting
        with caused_by(cause(number)):
            request = make_mocked_request("HEAD", "/")
            sending = self.site.sender.send(request, self._find, wait_ms=wait_ms)
            task = asyncio.ensure_future(sending)
        while not task.done() and self.waiting == before:
            await asyncio.sleep(0)
        if task.done():
            error = task.exception()
            assert isinstance(error, MatrixError)
            assert error.errcode == "M_NOT_YET_UPLOADED"
            return False
        self.tasks.append(task)
        return True


async def test_those_who_wait_for_media_keep_no_place_from_others() -> None:
    """Ten servers that wait for one upload, which never comes, could else stop all media."""
    site = Site()
    awaited, held = Awaited(site), Held(site)
    assert not await awaited.ask(0, wait_ms=0)
    for _ in range(MEDIA_WAITS_PER_ORIGIN_MAX):
        assert await awaited.ask(0)
    assert not await awaited.ask(0)
    for number in range(MEDIA_WAITS_PER_ORIGIN_MAX, MEDIA_WAITS_MAX):
        assert await awaited.ask(number)
    assert not await awaited.ask(100_000)
    for number in range(MEDIA_SENT_BYTES_MAX // MEDIA_SENT_BYTES):
        assert await held.ask(number) is None
    await held.end()
    awaited.came.set()
    assert {answer.status for answer in await asyncio.gather(*awaited.tasks)} == {200}
    awaited.came.clear()
    assert await awaited.ask(0), "the places are free again"
    awaited.tasks[-1].cancel()
    await asyncio.gather(awaited.tasks[-1], return_exceptions=True)


async def test_so_many_bytes_are_sent_to_one_server_over_time() -> None:
    """What exceeds the rest is sent, and made up for."""
    site = Site()

    async def take(number: int, size: float) -> MatrixError | None:
        async def find(_wait_ms: int) -> ServedMedia:
            return served(b"", int(size))

        with caused_by(cause(number)):
            request = make_mocked_request("HEAD", "/")
            try:
                await site.sender.send(request, find, wait_ms=0)
            except MatrixError as error:
                return error
        return None

    assert await take(1, MEDIA_BYTES_PER_ORIGIN_BURST - 1) is None
    assert await take(1, 10 * MEDIA_BYTES_PER_ORIGIN_PER_S) is None
    refused = await take(1, 0)
    assert refused is not None
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert refused.extra["retry_after_ms"] == pytest.approx(10_000, abs=2)
    assert await take(2, 1) is None
    site.clock.jump(10.1)
    assert await take(1, 1) is None
