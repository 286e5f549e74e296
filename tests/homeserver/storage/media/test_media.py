"""Rows of media: reserved, complete, remote; quotas and pending IDs on both sides."""

from __future__ import annotations

import pytest

from federation.events.ids import UserId
from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.media.blob_store import BlobContent
from homeserver.storage.media.media import Description, MediaItem, Quota
from tests.homeserver.media_world import ALICE, BOB, ELSEWHERE, HERE, HOUR_MS, MediaWorld

PNG = Description("image/png", "a.png")
URI = Mxc(HERE, "one")
SINCE = 1_000


async def added(
    world: MediaWorld,
    media_id: str,
    size: int,
    *,
    by: UserId = ALICE,
    at_ms: int = SINCE + 1,
    quota: Quota | None = None,
) -> bool:
    content = await world.contents.put(media_id.encode().ljust(size, b".")[:size])
    return await world.media.add(
        Mxc(HERE, media_id), by, PNG, content, now_ms=at_ms, needs_token=True, quota=quota
    )


async def test_an_item_is_what_was_stored(world: MediaWorld) -> None:
    assert await world.media.load(URI) is None
    content = await world.contents.put(b"content")
    assert await world.media.add(URI, ALICE, PNG, content, now_ms=5, needs_token=False)
    assert await world.media.load(URI) == MediaItem(
        mxc=URI,
        uploader=ALICE,
        content_type="image/png",
        file_name="a.png",
        content=content,
        created_ms=5,
        last_access_ms=5,
        expires_ms=None,
        needs_token=False,
        is_quarantined=False,
    )
    assert content == BlobContent(content.sha256, 7)


async def test_a_reserved_id_gets_its_content_once(world: MediaWorld) -> None:
    assert await world.media.reserve(URI, ALICE, now_ms=5, expires_ms=50, needs_token=True)
    item = await world.item(URI)
    assert (item.content, item.expires_ms, item.uploader) == (None, 50, ALICE)
    content = await world.contents.put(b"content")
    complete = world.media.complete
    assert not await complete(URI, BOB, PNG, content, now_ms=10)
    assert not await complete(Mxc(ELSEWHERE, "one"), ALICE, PNG, content, now_ms=10)
    assert not await complete(URI, ALICE, PNG, content, now_ms=50)
    assert await complete(URI, ALICE, PNG, content, now_ms=49)
    assert not await complete(URI, ALICE, PNG, content, now_ms=49)
    item = await world.item(URI)
    assert (item.content, item.expires_ms, item.created_ms) == (content, None, 49)
    assert (item.content_type, item.file_name) == ("image/png", "a.png")


async def test_pending_ids_are_bounded(world: MediaWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEDIA_PENDING", 2)

    async def reserve(number: int, *, now_ms: int = 5, by: UserId = ALICE) -> bool:
        mxc = Mxc(HERE, f"m{number}")
        return await world.media.reserve(
            mxc, by, now_ms=now_ms, expires_ms=now_ms + 10, needs_token=True
        )

    assert [await reserve(number) for number in range(3)] == [True, True, False]
    assert await reserve(3, by=BOB)
    content = await world.contents.put(b"content")
    assert await world.media.complete(Mxc(HERE, "m0"), ALICE, PNG, content, now_ms=6)
    assert await reserve(4)
    assert not await reserve(5, now_ms=14)
    assert await reserve(6, now_ms=15), "the first two are over"


async def test_a_quota_counts_bytes_and_files_since_a_time(world: MediaWorld) -> None:
    quota = Quota(SINCE, 100, 3)

    async def within(by: UserId, size: int, quota: Quota) -> bool:
        return (await world.media.quota_left(by, quota)).has_space(size)

    assert await added(world, "old", 1000, at_ms=SINCE, quota=quota) is False
    assert await added(world, "old", 1000, at_ms=SINCE)
    assert await added(world, "bobs", 90, by=BOB)
    assert await within(ALICE, 100, quota)
    assert not await within(ALICE, 101, quota)
    assert await added(world, "a", 60, quota=quota)
    assert not await added(world, "b", 41, quota=quota)
    assert await added(world, "b", 40, quota=quota)
    assert await within(ALICE, 0, quota)
    assert not await within(ALICE, 1, quota)
    assert await added(world, "c", 0, quota=quota)
    assert not await within(ALICE, 0, quota), "three files"
    assert not await added(world, "d", 0, quota=quota)


async def test_a_quota_holds_for_reserved_ids(world: MediaWorld) -> None:
    quota = Quota(SINCE, 10, 5)
    await world.media.reserve(URI, ALICE, now_ms=SINCE + 1, expires_ms=9_000, needs_token=True)
    large = await world.contents.put(b"." * 11)
    assert not await world.media.complete(URI, ALICE, PNG, large, now_ms=SINCE + 2, quota=quota)
    right = await world.contents.put(b"." * 10)
    assert await world.media.complete(URI, ALICE, PNG, right, now_ms=SINCE + 2, quota=quota)


async def test_remote_media_are_replaced(world: MediaWorld) -> None:
    mxc = await world.keep_remote("far", b"first")
    first = await world.item(mxc)
    assert (first.uploader, first.needs_token) == (None, True)
    world.clock.at_ms += 10
    await world.keep_remote("far", b"second")
    second = await world.item(mxc)
    assert second.content != first.content
    assert second.created_ms == first.created_ms + 10
    assert await world.counts() == [0, 1]


async def test_an_access_is_noted_to_the_hour(world: MediaWorld) -> None:
    mxc = await world.upload()
    item = await world.item(mxc)
    assert limits.MEDIA_ACCESS_MS == HOUR_MS
    await world.media.touch(item, now_ms=item.last_access_ms + HOUR_MS - 1)
    assert await world.item(mxc) == item
    await world.media.touch(item, now_ms=item.last_access_ms + HOUR_MS)
    assert (await world.item(mxc)).last_access_ms == item.last_access_ms + HOUR_MS
