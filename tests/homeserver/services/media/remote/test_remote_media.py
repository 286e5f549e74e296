"""Media of another server, which is a real one of ours, or lies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from federation.causes import Cause, CauseKind, caused_by
from federation.errors import MatrixError
from federation.limits import FETCHES_PER_SERVER_AND_CAUSE_MAX
from federation.transport.scheduling import scheduler
from homeserver import limits
from homeserver.config_media import MediaSettings
from homeserver.rules.media.mxc import Mxc
from homeserver.services.media.downloads import Downloads, content_of
from homeserver.services.media.remote.remote_media import RemoteMediaCache
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobStoreUnavailable
from homeserver.storage.media.quarantine import QuarantineTable
from tests.federation.transport.loopback import Peer, loopback
from tests.federation.transport.memory_ports import until
from tests.homeserver.media_world import ELSEWHERE, HERE, MediaWorld, refused, whole

FAR = Mxc(ELSEWHERE, "far")
DOWNLOAD = "/_matrix/federation/v1/media/download/"
BYTES_MAX = 10_000


class Far:
    """Our services, and the server whose media they fetch."""

    def __init__(self, database: Database, world: MediaWorld, near: Peer, peer: Peer) -> None:
        self.world, self.peer = world, peer
        self.settings = MediaSettings(remote_bytes=BYTES_MAX)
        self.cache = RemoteMediaCache(
            database,
            world.contents,
            near.requests.media,
            settings=self.settings,
            clock=world.clock,
        )
        self.downloads = Downloads(
            database,
            world.contents,
            HERE,
            clock=world.clock,
            arrivals=world.arrivals,
            remote=self.cache,
        )

    @property
    def asked(self) -> int:
        """How often the other server was asked."""
        return len(self.peer.media.asked)

    async def download(self, mxc: Mxc = FAR) -> bytes:
        """What a client gets."""
        item = await self.downloads.find(mxc, timeout_ms=0)
        return await whole(await self.downloads.read(item))


@pytest_asyncio.fixture
async def far(database: Database, tmp_path: Path) -> AsyncIterator[Far]:
    """The two servers."""
    async with loopback() as net:
        near, peer = await net.peer(HERE), await net.peer(ELSEWHERE)
        peer.media.contents["far"] = b"far content"
        yield Far(database, MediaWorld(database, tmp_path / "media"), near, peer)


class Gate:
    """A lie that answers when it is let to."""

    def __init__(self, status: int = 404, body: bytes = b'{"errcode":"M_NOT_FOUND"}') -> None:
        self.status, self.body, self.asked = status, body, 0
        self.over = asyncio.Event()

    async def __call__(self, request: web.BaseRequest, _: Mapping[str, str]) -> web.StreamResponse:
        self.asked += 1
        await self.over.wait()
        return web.Response(status=self.status, body=self.body)


async def test_media_are_fetched_once_and_kept(far: Far) -> None:
    assert await far.download() == b"far content"
    assert await far.download() == b"far content"
    assert far.asked == 1
    item = await far.world.item(FAR)
    assert (item.content_type, item.file_name) == ("image/png", "a.png")
    assert item.uploader is None
    assert item.needs_token, "what comes now is served to users alone"


async def test_requests_at_one_time_are_one_fetch(far: Far) -> None:
    items = await asyncio.gather(*(far.cache.fetch(FAR, timeout_ms=0) for _ in range(20)))
    assert items == [items[0]] * 20
    assert far.asked == 1


async def test_requests_at_one_time_fail_together(far: Far) -> None:
    far.peer.lies[DOWNLOAD] = gate = Gate()
    tasks = [asyncio.ensure_future(far.cache.fetch(FAR, timeout_ms=0)) for _ in range(5)]
    await until(lambda: gate.asked == 1)
    gate.over.set()
    for task in tasks:
        async with refused(404, "M_NOT_FOUND"):
            await task
    assert gate.asked == 1


async def test_the_others_go_on_where_the_first_one_ends(far: Far) -> None:
    far.peer.lies[DOWNLOAD] = gate = Gate()
    first = asyncio.ensure_future(far.cache.fetch(FAR, timeout_ms=0))
    await until(lambda: gate.asked == 1)
    second = asyncio.ensure_future(far.cache.fetch(FAR, timeout_ms=0))
    await asyncio.sleep(0)  # it waits for the first
    del far.peer.lies[DOWNLOAD]
    first.cancel()
    assert content_of(await second).size == len(b"far content")
    gate.over.set()


async def test_one_user_whose_share_is_used_up_does_not_hold_up_another(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to ask has as much under way as it may; the next one's share is its own."""
    share = replace(scheduler.SHARES[CauseKind.USER], waiting=0)
    monkeypatch.setattr(scheduler, "SHARES", {**scheduler.SHARES, CauseKind.USER: share})
    far.peer.lies[f"{DOWNLOAD}stuck"] = gate = Gate()
    with caused_by(Cause(CauseKind.USER, "@greedy:hs1")):
        stuck = [
            asyncio.ensure_future(far.download(Mxc(ELSEWHERE, f"stuck{number}")))
            for number in range(FETCHES_PER_SERVER_AND_CAUSE_MAX)
        ]
        await until(lambda: gate.asked == FETCHES_PER_SERVER_AND_CAUSE_MAX)
        with pytest.raises(MatrixError) as error:
            await far.download()
    assert (error.value.status, error.value.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert error.value.extra["retry_after_ms"] == limits.MEDIA_BUSY_RETRY_AFTER_MS
    with caused_by(Cause(CauseKind.USER, "@modest:hs1")):
        assert await far.download() == b"far content"
    gate.over.set()
    await asyncio.gather(*stuck, return_exceptions=True)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, b'{"errcode":"M_NOT_FOUND"}', (404, "M_NOT_FOUND")),
        (403, b'{"errcode":"M_FORBIDDEN"}', (404, "M_NOT_FOUND")),
        (413, b'{"errcode":"M_TOO_LARGE"}', (502, "M_TOO_LARGE")),
        (502, b'{"errcode":"M_TOO_LARGE"}', (502, "M_TOO_LARGE")),
        (200, b"not media", (502, "M_UNKNOWN")),
    ],
)
async def test_what_is_refused_is_not_asked_for_again_soon(
    far: Far, status: int, body: bytes, told: tuple[int, str]
) -> None:
    far.peer.lies[DOWNLOAD] = gate = Gate(status, body)
    gate.over.set()
    for _ in range(3):
        async with refused(*told):
            await far.download()
    assert gate.asked == 1
    far.world.clock.at_ms += round(limits.MEDIA_REFUSED_S * 1000) - 1
    async with refused(*told):
        await far.download()
    assert gate.asked == 1
    far.world.clock.at_ms += 2
    del far.peer.lies[DOWNLOAD]
    assert await far.download() == b"far content"


async def test_refusals_are_kept_for_a_bounded_number_of_media(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_REFUSALS_REMEMBERED", 2)
    far = Far(far.world.database, far.world, far.peer.net.peers[HERE], far.peer)
    for name in ("a", "b", "c", "c", "b", "a"):
        async with refused(404, "M_NOT_FOUND"):
            await far.download(Mxc(ELSEWHERE, name))
    assert [media_id for media_id, _ in far.peer.media.asked] == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (504, b'{"errcode":"M_NOT_YET_UPLOADED"}', (504, "M_NOT_YET_UPLOADED")),
        (500, b"", (502, "M_UNKNOWN")),
        (401, b'{"errcode":"M_UNAUTHORIZED"}', (502, "M_UNKNOWN")),
        (429, b'{"errcode":"M_LIMIT_EXCEEDED"}', (502, "M_UNKNOWN")),
    ],
)
async def test_what_may_pass_is_asked_for_again(
    far: Far, status: int, body: bytes, told: tuple[int, str]
) -> None:
    far.peer.lies[DOWNLOAD] = gate = Gate(status, body)
    gate.over.set()
    async with refused(*told):
        await far.download()
    del far.peer.lies[DOWNLOAD]
    far.peer.net.clock.jump(100)  # longer than the back-off after one failure
    assert await far.download() == b"far content"


async def test_a_server_that_is_not_there_is_told_as_such(far: Far) -> None:
    await far.peer.runner.cleanup()
    async with refused(502, "M_UNKNOWN"):
        await far.download()


async def test_media_of_just_the_size_are_kept(far: Far) -> None:
    far.peer.media.contents["far"] = b"x" * BYTES_MAX
    far.peer.media.contents["more"] = b"x" * (BYTES_MAX + 1)
    assert len(await far.download()) == BYTES_MAX
    async with refused(502, "M_TOO_LARGE"):
        await far.download(Mxc(ELSEWHERE, "more"))
    assert await far.world.media.load(Mxc(ELSEWHERE, "more")) is None
    assert sorted(far.world.files) == ["blobs"], "nothing of it is left"


async def test_types_and_names_are_made_harmless(far: Far) -> None:
    far.peer.media.content_type = "text/html x"
    far.peer.media.disposition = "inline; filename*=utf-8''..%2F..%2Fa%00%0D%0Ab%E2%80%AE.png"
    await far.download()
    item = await far.world.item(FAR)
    assert (item.content_type, item.file_name) == ("application/octet-stream", "ab.png")


async def test_a_content_that_the_store_lost_is_fetched_again(far: Far) -> None:
    await far.download()
    item = await far.world.item(FAR)
    await far.world.store.delete(content_of(item).sha256)
    assert await far.download() == b"far content"
    assert await far.download() == b"far content"
    assert far.asked == 2


async def test_what_is_in_quarantine_is_not_served_and_not_fetched_again(far: Far) -> None:
    await far.download()
    await QuarantineTable(far.world.database).add(FAR)
    async with refused(404, "M_NOT_FOUND"):
        await far.download()
    assert far.asked == 1


async def test_the_same_content_under_another_uri_stays_in_quarantine(far: Far) -> None:
    await far.download()
    await QuarantineTable(far.world.database).add(FAR)
    far.peer.media.contents["again"] = b"far content"
    async with refused(404, "M_NOT_FOUND"):
        await far.download(Mxc(ELSEWHERE, "again"))


async def test_a_store_that_is_full_is_nobody_elses_fault(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: object) -> None:
        raise BlobStoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("homeserver.storage.media.local_blobs.LocalWriter.finish", full)
        with pytest.raises(BlobStoreUnavailable):
            await far.download()
    assert await far.download() == b"far content"


async def test_media_that_come_while_no_token_is_needed_never_need_one(
    far: Far, database: Database
) -> None:
    near = far.peer.net.peers[HERE]
    settings = MediaSettings(unauthenticated=True)
    cache = RemoteMediaCache(
        database,
        far.world.contents,
        near.requests.media,
        settings=settings,
        clock=far.world.clock,
    )
    item = await cache.fetch(FAR, timeout_ms=0)
    assert not item.needs_token
