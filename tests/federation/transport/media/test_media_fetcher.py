"""Media fetched from other servers: the endpoints in turn, redirects, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from aiohttp import web

from federation.events.ids import ServerName
from federation.limits import (
    BACKOFF_S_MAX,
    FETCHES_PER_SERVER_AND_CAUSE_MAX,
    MEDIA_BACKOFF_S_MAX,
    MEDIA_ENVELOPE_BYTES_MAX,
    MEDIA_FETCHED_BYTES_PER_S_MIN,
    MEDIA_FETCHED_PATIENCE_S_MAX,
)
from federation.media_ports import ThumbnailWish
from federation.transport.media import media_fetcher
from federation.transport.media.media_answers import MediaDescription
from federation.transport.media.media_fetcher import WantedMedia
from federation.transport.requests.client import FailureKind, FederationError, ServerRequest
from tests.federation.transport.loopback import Lie, Loopback, Peer, loopback
from tests.federation.transport.memory_media import KeptMedia

DESCRIBED = {"Content-Type": "image/png", "Content-Disposition": "inline; filename=a.png"}
PNG = MediaDescription("image/png", "a.png")
DOWNLOAD = "/_matrix/federation/v1/media/download/"
OLD = "/_matrix/media/v3/download/"
HEAD = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n"


def wanted(server: str, media_id: str = "abc", **more: object) -> WantedMedia:
    """Return a wish for small media."""
    asked: dict[str, object] = {"bytes_max": 10_000, "wait_ms": 0, **more}
    return WantedMedia(ServerName(server), media_id, **asked)  # type: ignore[arg-type]


async def fetched(peer: Peer, wish: WantedMedia) -> KeptMedia:
    """Fetch media."""
    kept = KeptMedia()
    await peer.requests.media.fetch(wish, kept)
    return kept


async def failed(peer: Peer, wish: WantedMedia, kept: KeptMedia | None = None) -> FederationError:
    """Fetch media in vain."""
    with pytest.raises(FederationError) as caught:
        await peer.requests.media.fetch(wish, kept or KeptMedia())
    assert caught.value.server == wish.server
    return caught.value


class Scripted:
    """A lie that notes what it is asked."""

    def __init__(
        self, body: bytes = b"", status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.body, self.status, self.headers = body, status, headers or {}
        self.asked: list[tuple[str, Mapping[str, str]]] = []

    async def __call__(self, request: web.BaseRequest, _: object) -> web.StreamResponse:
        self.asked.append((request.raw_path, request.headers))
        return web.Response(status=self.status, body=self.body, headers=self.headers)


def mixed(body: bytes, status: int = 200) -> Scripted:
    """Return an answer in parts."""
    return Scripted(body, status, {"Content-Type": "multipart/mixed; boundary=b"})


def unrecognized() -> Scripted:
    """Return the answer of a server without the signed endpoint."""
    return Scripted(b'{"errcode":"M_UNRECOGNIZED","error":"?"}', 404)


def leading_to(url: str) -> Scripted:
    """Return an answer in parts that leads elsewhere."""
    return mixed(HEAD + b"Location: " + url.encode() + b"\r\n\r\n\r\n--b--\r\n")


def url_of(net: Loopback, peer: Peer, path: str) -> str:
    """Return a URL of a peer as a web server."""
    return f"https://{peer.name}:{net.addresses[peer.name].rpartition(':')[2]}{path}"


async def test_media_are_fetched_by_the_signed_endpoint() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.media.contents["abc"] = bytes(range(256)) * 39
        kept = await fetched(a, wanted("b.test", wait_ms=1_500))
        assert (kept.described, kept.content) == ([PNG], b.media.contents["abc"])
        assert b.media.asked == [("abc", 0)]
        assert a.metrics.counts["federation_media_fetches"] == 1
        b.media.awaited.add("later")
        error = await failed(a, wanted("b.test", "later", wait_ms=1_500))
        assert error.errcode == "M_NOT_YET_UPLOADED"
        assert b.media.asked[1:] == [("later", 0), ("later", 1_500)]


async def test_missing_media_are_missing_and_the_old_endpoint_is_not_asked() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.lies[OLD] = old = Scripted(b"x")
        error = await failed(a, wanted("b.test"))
        assert (error.status, error.errcode) == (404, "M_NOT_FOUND")
        assert a.metrics.counts["federation_media_fetches"] == 1
        assert not old.asked
        b.lies[DOWNLOAD] = Scripted(b'{"errcode":"M_UNRECOGNIZED","error":"?"}', 400)
        assert (await failed(a, wanted("b.test"))).status == 400
        assert not old.asked


async def test_the_old_endpoint_is_asked_where_the_signed_one_is_not_known() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        old = Scripted(b"the media", headers=DESCRIBED)
        b.lies[DOWNLOAD], b.lies[OLD] = unrecognized(), old
        kept = await fetched(a, wanted("b.test", wait_ms=7))
        assert (kept.described, kept.content) == ([PNG], b"the media")
        path, sent = old.asked[0]
        assert path == f"{OLD}b.test/abc?timeout_ms=7&allow_remote=false&allow_redirect=true"
        assert "Authorization" not in sent


async def test_thumbnails_are_asked_for_at_both_endpoints() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        signed, old = unrecognized(), Scripted(b"small")
        b.lies["/federation/v1/media/thumbnail/"], b.lies["/media/v3/thumbnail/"] = signed, old
        wish = ThumbnailWish(32, 16, "crop", animated=False)
        assert (await fetched(a, wanted("b.test", thumbnail=wish))).content == b"small"
        query = "width=32&height=16&method=crop&animated=false&timeout_ms=0"
        assert signed.asked[0][0].partition("?")[2] == query
        assert old.asked[0][0].partition("?")[2].startswith(query)


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_redirect_is_followed_once_and_without_a_signature(is_old: bool) -> None:
    async with loopback(is_private=True) as net:
        a, b, cdn = [await net.peer(name) for name in ("a.test", "b.test", "cdn.test")]
        cdn.lies["/x"] = there = Scripted(b"the media", headers=DESCRIBED)
        url = url_of(net, cdn, "/x?signature=%2B1")
        if is_old:
            b.lies[DOWNLOAD] = unrecognized()
            b.lies[OLD] = Scripted(b"", 307, {"Location": url})
        else:
            b.lies[DOWNLOAD] = leading_to(url)
        kept = await fetched(a, wanted("b.test"))
        assert (kept.described, kept.content) == ([PNG], b"the media")
        path, sent = there.asked[0]
        assert (path, sent["Host"]) == ("/x?signature=%2B1", url.split("/")[2])
        assert "Authorization" not in sent
        cdn.lies["/x"] = Scripted(b"", 307, {"Location": url_of(net, cdn, "/y")})
        cdn.lies["/y"] = further = Scripted(b"further")
        kept = KeptMedia()
        assert (await failed(a, wanted("b.test"), kept)).status == 307
        assert not further.asked
        assert not kept.described


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://cdn.test/x", FailureKind.BAD_MEDIA),
        ("/_matrix/x", FailureKind.BAD_MEDIA),
        ("", FailureKind.BAD_MEDIA),
        ("https://u:p@cdn.test/x", FailureKind.BAD_MEDIA),
        ("https://gone.test/x", FailureKind.UNRESOLVED),
        ("https://cdn.test/x", FailureKind.ADDRESS),  # it is looked up, and leads inside
        ("https://b.test/x", FailureKind.ADDRESS),  # the override is for the server, not for this
        ("https://127.0.0.1/x", FailureKind.ADDRESS),
        ("https://[::ffff:127.0.0.1]/x", FailureKind.ADDRESS),
        ("https://169.254.169.254/x", FailureKind.ADDRESS),
    ],
)
async def test_a_redirect_to_where_nothing_may_be_fetched_is_refused(
    url: str, kind: FailureKind
) -> None:
    async with loopback() as net:
        a, b, cdn = [await net.peer(name) for name in ("a.test", "b.test", "cdn.test")]
        b.lies[DOWNLOAD] = leading_to(url)
        assert (await failed(a, wanted("b.test"))).kind is kind
        assert not cdn.lies


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (Scripted(b"{}"), FailureKind.BAD_MEDIA),
        (mixed(b""), FailureKind.BAD_MEDIA),
        (mixed(HEAD + b"\r\nbroken off"), FailureKind.BAD_MEDIA),
        (mixed(HEAD + b"\r\nx\r\n--b\r\n\r\ny\r\n--b--"), FailureKind.BAD_MEDIA),
        (mixed(HEAD + b"A: " + b"x" * 30_000), FailureKind.BAD_MEDIA),
        (mixed(HEAD + b"\r\n" + b"x" * 10_001 + b"\r\n--b--"), FailureKind.TOO_LARGE),
        (mixed(b"x" * (10_001 + MEDIA_ENVELOPE_BYTES_MAX)), FailureKind.TOO_LARGE),
    ],
)
async def test_answers_that_are_not_media_are_refused(lie: Lie, kind: FailureKind) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.lies[DOWNLOAD] = lie
        assert (await failed(a, wanted("b.test"))).kind is kind
        assert a.requests.media.backoff_s(b.name) == 0, "it answered"


async def test_media_of_just_the_size_are_taken() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.media.contents["abc"] = b"x" * 10_000
        assert len((await fetched(a, wanted("b.test"))).content) == 10_000


async def test_an_answer_that_says_nothing_of_its_length_is_bounded_while_it_comes() -> None:
    """An endless one ends, and no more than the bound is handed on."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")

        async def endless(request: web.BaseRequest, _: object) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "multipart/mixed; boundary=b"})
            await response.prepare(request)
            await response.write(HEAD + b"\r\n")
            while True:
                await response.write(b"x" * 1_000)

        b.lies[DOWNLOAD] = endless
        kept = KeptMedia()
        assert (await failed(a, wanted("b.test"), kept)).kind is FailureKind.TOO_LARGE
        assert len(kept.content) <= 10_000


async def test_a_connection_that_breaks_off_is_no_end_of_the_media() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")

        async def breaks(request: web.BaseRequest, _: object) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_length = 100
            await response.prepare(request)
            await response.write(b"x" * 99)
            assert request.transport is not None
            request.transport.close()
            return response

        b.lies[DOWNLOAD], b.lies[OLD] = unrecognized(), breaks
        assert (await failed(a, wanted("b.test"))).kind is FailureKind.BROKEN


async def test_a_server_that_stalls_is_given_up_after_the_idle_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(media_fetcher, "MEDIA_IDLE_S_MAX", 0.2)
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        over = asyncio.Event()

        async def stall(request: web.BaseRequest, _: object) -> web.StreamResponse:
            await over.wait()
            return web.Response()

        b.lies[DOWNLOAD] = stall
        assert (await failed(a, wanted("b.test"))).kind is FailureKind.TIMEOUT
        assert a.requests.media.backoff_s(b.name) > 0
        over.set()


async def test_a_server_that_drips_is_given_up_after_the_time_for_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(media_fetcher, "MEDIA_REQUEST_S_MAX", 0.5)
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")

        async def drip(request: web.BaseRequest, _: object) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "multipart/mixed; boundary=b"})
            await response.prepare(request)
            await response.write(HEAD + b"\r\n")
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.01)

        b.lies[DOWNLOAD] = drip
        assert (await failed(a, wanted("b.test"))).kind is FailureKind.TIMEOUT


@pytest.mark.parametrize("part", [1.05, 0.5])
async def test_media_come_at_a_rate(part: float) -> None:
    """`part` of the slowest rate, for longer than a pause may be."""
    step_s = MEDIA_FETCHED_PATIENCE_S_MAX / 2
    piece = b"x" * int(step_s * MEDIA_FETCHED_BYTES_PER_S_MIN * part)
    content = piece * 10
    took = asyncio.Semaphore(0)

    class Kept(KeptMedia):
        async def write(self, data: bytes) -> None:
            await super().write(data)
            if len(self.content) % len(piece) == 0:
                took.release()

    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")

        async def slow(request: web.BaseRequest, _: object) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "multipart/mixed; boundary=b"})
            await response.prepare(request)
            await response.write(HEAD + b"\r\n" + piece)
            for _ in range(9):
                await took.acquire()
                net.clock.jump(step_s)
                await response.write(piece)
            await took.acquire()
            await response.write(b"\r\n--b--")
            return response

        b.lies[DOWNLOAD] = slow
        kept, wish = Kept(), wanted("b.test", bytes_max=len(content))
        if part > 1:
            await a.requests.media.fetch(wish, kept)
            assert len(kept.content) == len(content)
            return
        assert (await failed(a, wish, kept)).kind is FailureKind.TIMEOUT
        assert len(kept.content) < len(content)
        for _ in range(10):
            took.release()  # the peer ends


async def test_failures_with_media_leave_everything_else_alone() -> None:
    """A server whose media can't be had is still sent events; and it is asked for media again when
    it is back, at the latest after a while."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        media = a.requests.media
        b.lies[DOWNLOAD] = Scripted(b"<html>", 502)
        for _ in range(40):
            await failed(a, wanted("b.test"))
            net.clock.jump(media.backoff_s(b.name))
        await failed(a, wanted("b.test"))
        assert 0 < media.backoff_s(b.name) <= MEDIA_BACKOFF_S_MAX < BACKOFF_S_MAX
        assert (await failed(a, wanted("b.test"))).kind is FailureKind.BACKING_OFF
        assert a.backoffs.wait_s(b.name) == 0
        await a.client.get(b.name, "/_matrix/federation/v1/version")
        a.backoffs.failed(b.name, "down")
        a.backoffs.succeeded(b.name)
        del b.lies[DOWNLOAD]
        b.media.contents["abc"] = b"x"
        assert (await fetched(a, wanted("b.test"))).content == b"x"


async def test_a_server_that_is_left_alone_is_not_asked_for_media() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.media.contents["abc"] = b"x"
        a.backoffs.failed(b.name, "no connection")
        error = await failed(a, wanted("b.test"))
        assert (error.kind, error.detail) == (FailureKind.BACKING_OFF, "no connection")
        assert not b.media.asked


@pytest.mark.parametrize(
    ("status", "errcode"), [(504, "M_NOT_YET_UPLOADED"), (502, "M_TOO_LARGE"), (413, "M_TOO_LARGE")]
)
async def test_what_concerns_one_upload_does_not_concern_its_server(
    status: int, errcode: str
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.lies[DOWNLOAD] = Scripted(b'{"errcode":"%s","error":"x"}' % errcode.encode(), status)
        error = await failed(a, wanted("b.test"))
        assert (error.status, error.errcode, error.is_retryable) == (status, errcode, False)
        assert a.requests.media.backoff_s(b.name) == 0


async def test_what_the_receiver_raises_is_not_the_servers_fault() -> None:
    class Full(KeptMedia):
        async def write(self, piece: bytes) -> None:
            raise RuntimeError("the disk is full")

    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.media.contents["abc"] = b"x"
        with pytest.raises(RuntimeError, match="full"):
            await a.requests.media.fetch(wanted("b.test"), Full())
        assert a.requests.media.backoff_s(b.name) == 0


async def test_media_do_not_take_the_turns_of_other_requests() -> None:
    """As many as may be fetched at once from one server are stuck; it is asked all the same."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        over, waiting = asyncio.Event(), asyncio.Semaphore(0)

        async def stuck(request: web.BaseRequest, _: object) -> web.StreamResponse:
            waiting.release()
            await over.wait()
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)

        b.lies[DOWNLOAD] = stuck
        tasks = [asyncio.ensure_future(failed(a, wanted("b.test", f"m{n}"))) for n in range(10)]
        for _ in range(FETCHES_PER_SERVER_AND_CAUSE_MAX):
            await waiting.acquire()
        answer = await a.client.request(
            ServerRequest(b.name, "GET", "/_matrix/federation/v1/version")
        )
        assert answer["server"]["name"] == "Freehold"
        assert waiting.locked(), "no more than those are asked for"
        over.set()
        for error in await asyncio.gather(*tasks):
            assert error.status == 404
