"""Thumbnails over HTTP: parameters, headers, ranges, and what is served without a token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from homeserver import limits
from homeserver.api.media.thumbnails import ThumbnailsApi
from homeserver.config_media import MediaSettings
from homeserver.rules.media.mxc import Mxc
from homeserver.rules.media.serving import SAFETY
from homeserver.storage.database import Database
from tests.homeserver.api.handlers import GUEST
from tests.homeserver.api.media.media_client import V1, MediaClient, serving
from tests.homeserver.media.pictures import animation, opened, picture
from tests.homeserver.media_world import MediaWorld
from tests.homeserver.view_world import MANY, Views

OLD = "/_matrix/media/v3"


@pytest.fixture
async def views(world: MediaWorld) -> AsyncIterator[Views]:
    made = Views(world, MANY)
    yield made
    await made.sandbox.close()


@pytest.fixture
async def client(views: Views) -> AsyncIterator[MediaClient]:
    routes = ThumbnailsApi(views.world.downloads, views.thumbnails, is_open=False).routes()
    async with serving(views.world, more=routes) as client:
        yield client


def path(mxc: Mxc, query: str = "?width=96&height=96&method=crop", prefix: str = V1) -> str:
    return f"{prefix}/thumbnail/{mxc.origin}/{mxc.media_id}{query}"


async def test_a_thumbnail_comes_with_its_headers(client: MediaClient) -> None:
    mxc = await client.upload(picture("JPEG"), content_type="image/jpeg")
    reply = await client.call("GET", path(mxc))
    assert (reply.status, opened(reply.data).size) == (200, (96, 96))
    expected = {
        **SAFETY,
        "Content-Type": "image/jpeg",
        "Content-Length": str(len(reply.data)),
        "Content-Disposition": 'inline; filename="thumbnail.jpg"',
        "Cache-Control": f"private, max-age={limits.MEDIA_CACHED_S}, immutable",
        "Accept-Ranges": "bytes",
        "Access-Control-Allow-Origin": "*",
    }
    assert {name: reply.headers.get(name) for name in expected} == expected
    head = await client.call("HEAD", path(mxc))
    assert (head.status, head.data) == (200, b"")
    assert head.headers["ETag"] == reply.headers["ETag"]
    part = await client.call("GET", path(mxc), headers={"Range": "bytes=5-9"})
    assert (part.status, part.data) == (206, reply.data[5:10])
    unchanged = {"If-None-Match": reply.headers["ETag"]}
    assert (await client.call("GET", path(mxc), headers=unchanged)).status == 304


async def test_the_picture_itself_comes_with_the_type_that_it_has(client: MediaClient) -> None:
    data = picture("PNG", (20, 20))
    mxc = await client.upload(data, content_type="image/jpeg")
    reply = await client.call("GET", path(mxc))
    assert (reply.status, reply.data) == (200, data)
    assert reply.headers["Content-Type"] == "image/png"
    assert reply.headers["Content-Disposition"] == 'inline; filename="thumbnail.png"'


@pytest.mark.parametrize(
    ("query", "size"),
    [
        ("?width=96&height=96", (96, 72)),
        ("?width=1&height=1&method=scale", (32, 24)),
        ("?width=1&height=1&method=crop", (32, 32)),
        ("?width=320&height=240&method=scale", (320, 240)),
        ("?width=9999999&height=1&method=scale", (400, 300)),
        ("?width=200&height=200&method=crop", (240, 240)),
        ("?width=96&height=96&timeout_ms=5&animated=false", (96, 72)),
    ],
)
async def test_sizes_and_methods(client: MediaClient, query: str, size: tuple[int, int]) -> None:
    mxc = await client.upload(picture("PNG"), content_type="image/png")
    assert opened((await client.call("GET", path(mxc, query))).data).size == size


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ("", "M_MISSING_PARAM"),
        ("?width=96", "M_MISSING_PARAM"),
        ("?height=96", "M_MISSING_PARAM"),
        ("?width=96&height=x", "M_INVALID_PARAM"),
        ("?width=96&height=1.5", "M_INVALID_PARAM"),
        ("?width=-96&height=96", "M_INVALID_PARAM"),
        ("?width=0&height=96", "M_INVALID_PARAM"),
        ("?width=96&height=96&method=stretch", "M_INVALID_PARAM"),
        ("?width=96&height=96&animated=maybe", "M_INVALID_PARAM"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    client: MediaClient, query: str, errcode: str
) -> None:
    """Spec: "the client requested non-integer dimensions or asked for negatively-sized images"."""
    mxc = await client.upload(picture("PNG"), content_type="image/png")
    assert (await client.call("GET", path(mxc, query))).refusal == (400, errcode)


async def test_an_encrypted_file_has_none(client: MediaClient) -> None:
    mxc = await client.upload(picture("PNG"), content_type="application/octet-stream")
    assert (await client.call("GET", path(mxc))).refusal == (400, "M_UNKNOWN")


async def test_an_animation_is_asked_for(client: MediaClient) -> None:
    mxc = await client.upload(animation("GIF"), content_type="image/gif")
    for animated, frames in (("", 1), ("&animated=false", 1), ("&animated=true", 3)):
        reply = await client.call("GET", path(mxc, f"?width=32&height=32{animated}"))
        assert getattr(opened(reply.data), "n_frames", 1) == frames
        assert reply.headers["Content-Type"] == ("image/webp" if frames > 1 else "image/png")


async def test_what_is_not_there_is_missing(client: MediaClient) -> None:
    for mxc in ("hs1/nothing", "hs2/nothing", "hs1/..%2F..%2Fetc", "no%20server/x"):
        reply = await client.call("GET", f"{V1}/thumbnail/{mxc}?width=1&height=1")
        assert reply.refusal == (404, "M_NOT_FOUND")


async def test_without_a_token_only_what_came_while_that_was_allowed(
    database: Database, tmp_path: Path
) -> None:
    settings = MediaSettings(unauthenticated=True)
    world = MediaWorld(database, tmp_path / "media", settings=settings)
    views = Views(world, MANY)
    free = await world.upload(picture("PNG"), content_type="image/png")
    closed = MediaWorld(database, tmp_path / "media", first_id=100)
    bound = await closed.upload(picture("GIF"), content_type="image/gif")
    routes = ThumbnailsApi(world.downloads, views.thumbnails, is_open=True).routes()
    async with serving(world, more=routes) as client:
        reply = await client.call("GET", path(free, prefix=OLD), token=False)
        assert (reply.status, opened(reply.data).size) == (200, (96, 96))
        assert reply.headers["Cache-Control"].startswith("public")
        refused = await client.call("GET", path(bound, prefix=OLD), token=False)
        assert refused.refusal == (404, "M_NOT_FOUND")
        refused = await client.call("GET", path(free), token=False)
        assert refused.refusal == (401, "M_MISSING_TOKEN")
        assert (await client.call("GET", path(bound))).status == 200
        older = await client.call("GET", path(free, prefix="/_matrix/media/r0"), token=False)
        assert older.data == reply.data
    await views.sandbox.close()


async def test_a_guest_may_look(views: Views) -> None:
    routes = ThumbnailsApi(views.world.downloads, views.thumbnails, is_open=False).routes()
    mxc = await views.world.upload(picture("PNG"), content_type="image/png")
    async with serving(views.world, GUEST, more=routes) as client:
        assert (await client.call("GET", path(mxc))).status == 200
