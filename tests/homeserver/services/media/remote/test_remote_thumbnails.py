"""Thumbnails that another server makes, which is one in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from federation.media_ports import ThumbnailWish
from homeserver import limits
from homeserver.config_media import RetentionTables
from homeserver.rules.media.mxc import Mxc
from homeserver.rules.media.thumbnail_sizes import Method
from homeserver.services.media.downloads import content_of
from homeserver.services.media.retention import Retention
from homeserver.storage.database import Database
from homeserver.storage.media.media import Description
from homeserver.storage.media.quarantine import QuarantineTable
from tests.federation.transport.loopback import Peer, loopback
from tests.homeserver.media.pictures import opened, picture
from tests.homeserver.media_world import ELSEWHERE, HERE, MediaWorld, refused
from tests.homeserver.view_world import MANY, Views

VIDEO = Mxc(ELSEWHERE, "video")
THUMBNAIL = "/_matrix/federation/v1/media/thumbnail/"


class Far:
    """Our thumbnails, and the server that has some of its own."""

    def __init__(self, views: Views, peer: Peer) -> None:
        self.views, self.world, self.peer = views, views.world, peer
        peer.media.contents["video"] = b"small picture"

    async def keep(self, content_type: str, mxc: Mxc = VIDEO) -> None:
        """Keep media of the other server, of such a type."""
        content = await self.world.contents.put(b"content of the " + content_type.encode())
        described = Description(content_type, None)
        now_ms = self.world.clock.now_ms()
        await self.world.media.keep_remote(mxc, described, content, now_ms=now_ms, needs_token=True)

    async def thumbnail(self, side: int = 96) -> bytes:
        """What a client gets."""
        found = await self.views.find(VIDEO, side)
        return await self.views.read(VIDEO, found)


@pytest_asyncio.fixture
async def far(database: Database, tmp_path: Path) -> AsyncIterator[Far]:
    """The two servers; the other one has a thumbnail of its video."""
    async with loopback() as net:
        near, peer = await net.peer(HERE), await net.peer(ELSEWHERE)
        views = Views(MediaWorld(database, tmp_path / "media"), MANY, near.requests.media)
        found = Far(views, peer)
        await found.keep("video/mp4")
        yield found
        await views.sandbox.close()


def answering(status: int, body: bytes) -> tuple[list[str], object]:
    """A lie, and what it was asked."""
    asked: list[str] = []

    async def answer(request: web.BaseRequest, _: object) -> web.StreamResponse:
        asked.append(request.raw_path)
        return web.Response(status=status, body=body)

    return asked, answer


async def test_a_thumbnail_of_a_video_is_fetched_once(far: Far) -> None:
    assert await far.thumbnail() == b"small picture"
    assert await far.thumbnail() == b"small picture"
    assert far.peer.media.wishes == [ThumbnailWish(96, 96, "crop", animated=False)]
    found = await far.views.find(VIDEO)
    assert found.content_type == "image/png"
    assert far.views.sandbox.runs == 0
    await far.views.find(VIDEO, method=Method.SCALE, animated=True)
    assert far.peer.media.wishes[1] == ThumbnailWish(96, 96, "scale", animated=True)


async def test_one_that_the_store_lost_is_fetched_again(far: Far) -> None:
    found = await far.views.find(VIDEO)
    assert found.content is not None
    await far.world.store.delete(found.content.sha256)
    assert await far.thumbnail() == b"small picture"
    assert len(far.peer.media.wishes) == 2


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/html", "audio/ogg"])
async def test_none_is_asked_for_where_there_can_be_none(far: Far, content_type: str) -> None:
    await far.keep(content_type)
    async with refused(400, "M_UNKNOWN"):
        await far.thumbnail()
    assert not far.peer.media.wishes


@pytest.mark.parametrize("content_type", ["image/heic", "image/svg+xml", "application/pdf"])
async def test_pictures_of_other_kinds_may_have_one(far: Far, content_type: str) -> None:
    await far.keep(content_type)
    assert await far.thumbnail() == b"small picture"


async def test_media_of_this_server_are_not_asked_for_elsewhere(far: Far) -> None:
    mxc = await far.world.upload(content_type="video/mp4")
    async with refused(400, "M_UNKNOWN"):
        await far.views.find(mxc)
    assert not far.peer.media.wishes


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "video/mp4", "nonsense"])
async def test_what_is_no_picture_is_no_thumbnail(far: Far, content_type: str) -> None:
    far.peer.media.content_type = content_type
    for _ in range(2):
        async with refused(400, "M_UNKNOWN"):
            await far.thumbnail()
    assert len(far.peer.media.wishes) == 1, "it isn't asked again soon"


async def test_a_thumbnail_of_just_the_size_is_kept(far: Far) -> None:
    most = limits.MEDIA_REMOTE_THUMBNAIL_BYTES
    far.peer.media.contents["video"] = b"x" * most
    assert len(await far.thumbnail()) == most
    far.peer.media.contents["video"] = b"x" * (most + 1)
    async with refused(502, "M_TOO_LARGE"):
        await far.thumbnail(32)


@pytest.mark.parametrize(
    ("status", "body", "told", "is_lasting"),
    [
        (400, b'{"errcode":"M_UNKNOWN"}', (400, "M_UNKNOWN"), True),
        (404, b'{"errcode":"M_NOT_FOUND"}', (400, "M_UNKNOWN"), True),
        (200, b"{}", (400, "M_UNKNOWN"), True),
        (413, b'{"errcode":"M_TOO_LARGE"}', (502, "M_TOO_LARGE"), True),
        (500, b"", (502, "M_UNKNOWN"), False),
    ],
)
async def test_a_refusal_is_told_and_kept_for_a_while(
    far: Far, status: int, body: bytes, told: tuple[int, str], is_lasting: bool
) -> None:
    asked, lie = answering(status, body)
    far.peer.lies[THUMBNAIL] = lie  # type: ignore[assignment]
    for _ in range(2):
        async with refused(*told):
            await far.thumbnail()
        far.peer.net.clock.jump(100)  # longer than a back-off
    assert len(asked) == (1 if is_lasting else 2)
    far.world.clock.at_ms += round(limits.MEDIA_REFUSED_S * 1000) + 1
    del far.peer.lies[THUMBNAIL]
    assert await far.thumbnail() == b"small picture"


async def test_a_thumbnail_goes_with_its_media(far: Far) -> None:
    """Its row is of the content that it shows."""
    await far.thumbnail()
    source = content_of(await far.world.item(VIDEO)).sha256
    count = await far.world.database.fetchval(
        "SELECT count(*) FROM media_thumbnails WHERE source = $1", source
    )
    assert count == 1


async def test_what_another_server_shows_stays_with_its_own_media(far: Far) -> None:
    """It may say that the bytes of a picture of ours are a video, and show anything for it."""
    data = picture("PNG")
    mxc = await far.world.upload(data, content_type="image/png")
    content = await far.world.contents.put(data)
    now_ms = far.world.clock.now_ms()
    await far.world.media.keep_remote(
        VIDEO, Description("video/mp4", None), content, now_ms=now_ms, needs_token=True
    )
    assert await far.thumbnail() == b"small picture"
    ours = await far.views.find(mxc)
    assert opened(await far.views.read(mxc, ours)).size == (96, 96)


async def test_a_quarantined_content_is_no_thumbnail_either(far: Far) -> None:
    bad = await far.world.upload(b"small picture", content_type="image/png")
    assert await far.thumbnail() == b"small picture"
    await QuarantineTable(far.world.database).add(bad)
    for side in (96, 32):  # one that was fetched, and a new one
        async with refused(404, "M_NOT_FOUND"):
            await far.views.find(VIDEO, side)


async def test_a_content_that_is_its_own_thumbnail_is_let_go(far: Far) -> None:
    item = await far.world.media.load(VIDEO)
    assert item is not None
    far.peer.media.contents["video"] = b"content of the video/mp4"
    found = await far.views.find(VIDEO)
    assert found.content == item.content
    await far.world.database.execute("DELETE FROM media")
    far.world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS + 1
    retention = Retention(
        far.world.database, far.world.contents, HERE, RetentionTables(), far.world.clock
    )
    await retention.round()
    assert await far.world.counts() == []
