"""Thumbnails over the store and the real sandbox: made once, and only of pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.media.sandbox_orders import SandboxBounds
from homeserver.media.turns import TurnBounds, Turns
from homeserver.rules.media.mxc import Mxc
from homeserver.rules.media.thumbnail_sizes import Method
from homeserver.storage.media.media import Description
from tests.homeserver.media.pictures import animation, bomb, opened, picture
from tests.homeserver.media_world import ELSEWHERE, MediaWorld, refused
from tests.homeserver.view_world import MANY, CountedSandbox, Views


@pytest.fixture
async def views(world: MediaWorld) -> AsyncIterator[Views]:
    made = Views(world, MANY)
    yield made
    await made.sandbox.close()


async def test_a_thumbnail_is_made_once(views: Views) -> None:
    data = picture("JPEG")
    mxc = await views.world.upload(data, content_type="image/jpeg")
    found = await views.find(mxc)
    made = await views.read(mxc, found)
    assert (opened(made).size, found.content_type) == ((96, 96), "image/jpeg")
    assert await views.find(mxc) == found
    assert (await views.find(mxc, 90)).content == found.content, "sizes are rounded up"
    same = await views.world.upload(data, content_type="image/jpeg; x=y")
    assert (await views.find(same)).content == found.content
    assert views.sandbox.runs == 1
    assert (await views.find(mxc, method=Method.SCALE)).content != found.content
    assert views.sandbox.runs == 2


async def test_requests_at_one_time_are_one_piece_of_work(views: Views) -> None:
    mxc = await views.world.upload(picture("PNG"), content_type="image/png")
    found = await asyncio.gather(*(views.find(mxc) for _ in range(20)))
    assert len(set(found)) == 1
    assert views.sandbox.runs == 1


@pytest.mark.parametrize(
    "content_type",
    ["application/octet-stream", "text/html", "image/svg+xml", "application/pdf", "video/mp4"],
)
async def test_what_is_not_a_picture_is_opaque(views: Views, content_type: str) -> None:
    """An encrypted file is not looked into, not even if it looks like a picture."""
    mxc = await views.world.upload(picture("PNG"), content_type=content_type)
    async with refused(400, "M_UNKNOWN"):
        await views.find(mxc)
    assert views.sandbox.runs == 0


async def test_what_failed_is_not_tried_again_at_once(views: Views) -> None:
    mxc = await views.world.upload(b"not a picture", content_type="image/png")
    for side in (96, 32, 96):
        async with refused(400, "M_UNKNOWN"):
            await views.find(mxc, side)
    assert views.sandbox.runs == 1
    views.world.clock.at_ms += int(limits.SANDBOX_FAILURE_S * 1000) + 1
    async with refused(400, "M_UNKNOWN"):
        await views.find(mxc)
    assert views.sandbox.runs == 2


async def test_failures_that_are_remembered_are_bounded(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SANDBOX_FAILURES", 2)
    views = Views(world, MANY)
    files = [await world.upload(b"%d" % n, content_type="image/png") for n in range(3)]
    for mxc, runs in zip([*files, files[2], files[1], files[0]], (1, 2, 3, 3, 3, 4), strict=True):
        async with refused(400, "M_UNKNOWN"):
            await views.find(mxc)
        assert views.sandbox.runs == runs
    await views.sandbox.close()


async def test_what_is_too_large_is_refused_as_its_origin_demands(views: Views) -> None:
    """Spec: 413 for local content, 502 for another server's."""
    data = bomb(30_000, 30_000)
    local = await views.world.upload(data, content_type="image/png")
    remote = await kept_remote(views.world, data)
    for _ in range(2):
        async with refused(413, "M_TOO_LARGE"):
            await views.find(local)
        async with refused(502, "M_TOO_LARGE"):
            await views.find(remote)
    assert views.sandbox.runs == 1


async def kept_remote(world: MediaWorld, data: bytes) -> Mxc:
    mxc, content = Mxc(ELSEWHERE, "far"), await world.contents.put(data)
    described = Description("image/png", None)
    await world.media.keep_remote(mxc, described, content, now_ms=1, needs_token=True)
    return mxc


async def test_a_file_that_is_too_large_is_not_read(
    views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture("PNG")
    mxc = await views.world.upload(data, content_type="image/png")
    monkeypatch.setattr(limits, "THUMBNAIL_SOURCE_BYTES", len(data) - 1)
    async with refused(413, "M_TOO_LARGE"):
        await views.find(mxc)
    assert views.sandbox.runs == 0
    monkeypatch.setattr(limits, "THUMBNAIL_SOURCE_BYTES", len(data))
    assert (await views.find(mxc)).content is not None


async def test_a_small_picture_is_its_own_thumbnail(views: Views) -> None:
    data = picture("PNG", (90, 90))
    mxc = await views.world.upload(data, content_type="image/png")
    found = await views.find(mxc)
    assert (found.content, found.content_type) == (None, "image/png")
    assert await views.read(mxc, found) == data
    assert await views.find(mxc) == found
    assert views.sandbox.runs == 1


async def test_an_animation_and_its_still_are_two(views: Views) -> None:
    mxc = await views.world.upload(animation("GIF"), content_type="image/gif")
    moving, still = await views.find(mxc, 32, animated=True), await views.find(mxc, 32)
    assert opened(await views.read(mxc, moving)).n_frames == 3  # type: ignore[attr-defined]
    assert getattr(opened(await views.read(mxc, still)), "n_frames", 1) == 1


async def test_a_lost_thumbnail_is_made_again(views: Views) -> None:
    mxc = await views.world.upload(picture("JPEG"), content_type="image/jpeg")
    found = await views.find(mxc)
    before = await views.read(mxc, found)
    assert found.content is not None
    await views.world.store.delete(found.content.sha256)
    assert await views.read(mxc, await views.find(mxc)) == before
    assert views.sandbox.runs == 2


async def test_a_lost_picture_is_missing(views: Views) -> None:
    mxc = await views.world.upload(picture("JPEG"), content_type="image/jpeg")
    item = await views.world.item(mxc)
    assert item.content is not None
    await views.world.store.delete(item.content.sha256)
    async with refused(404, "M_NOT_FOUND"):
        await views.find(mxc)


async def test_a_full_queue_is_told(world: MediaWorld) -> None:
    views = Views(world, TurnBounds(at_once=1, waiting=0, waiting_of_cause=0))
    mxc = await world.upload(picture("PNG"), content_type="image/png")
    async with views.sandbox._turns.turn():
        with pytest.raises(MatrixError) as refusal:
            await views.find(mxc)
    assert refusal.value.errcode == "M_LIMIT_EXCEEDED"
    retry_after = str(limits.THUMBNAILS_RETRY_AFTER_S + 1)
    assert refusal.value.headers == {"Retry-After": retry_after}
    assert (await views.find(mxc)).content is not None, "it isn't a failure of the picture"
    await views.sandbox.close()


async def test_without_a_sandbox_it_is_said_so(world: MediaWorld) -> None:
    views = Views(world, TurnBounds(1, 1, 1))
    views.sandbox = CountedSandbox(SandboxBounds(("no.such.module",)), Turns(TurnBounds(1, 1, 1)))
    views.thumbnails._sandbox = views.sandbox
    mxc = await world.upload(picture("PNG"), content_type="image/png")
    async with refused(503, "M_UNKNOWN"):
        await views.find(mxc)
