"""Downloads: waiting for a content, other servers' media, quarantine, lost contents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from homeserver.rules.media.mxc import Mxc
from homeserver.services.media.uploads import Upload
from homeserver.storage.database import Database
from homeserver.storage.media.media import Description, MediaItem
from homeserver.storage.media.quarantine import QuarantineTable
from tests.homeserver.media_world import (
    ALICE,
    ELSEWHERE,
    HERE,
    HOUR_MS,
    MediaWorld,
    pieces_of,
    refused,
    whole,
)

FAR = Mxc(ELSEWHERE, "far")
LONG_MS = 60_000


class OtherServer:
    """Brings one content, and counts how often it is asked."""

    def __init__(self) -> None:
        self.world: MediaWorld | None = None
        self.data = b"far content"
        self.asked: list[tuple[Mxc, int]] = []

    async def fetch(self, mxc: Mxc, *, timeout_ms: int) -> MediaItem:
        """Keeps the content as its server would send it."""
        assert self.world is not None
        self.asked.append((mxc, timeout_ms))
        await self.world.keep_remote(mxc.media_id, self.data)
        return await self.world.item(mxc)


@pytest.fixture
def other() -> OtherServer:
    return OtherServer()


@pytest.fixture
def world(database: Database, tmp_path: Path, other: OtherServer) -> MediaWorld:
    world = MediaWorld(database, tmp_path, remote=other)
    other.world = world
    return world


async def test_an_unknown_uri_is_not_found(world: MediaWorld) -> None:
    async with refused(404, "M_NOT_FOUND"):
        await world.downloads.find(Mxc(HERE, "unknown"), timeout_ms=LONG_MS)


async def test_a_content_on_its_way_is_waited_for(world: MediaWorld) -> None:
    reserved = await world.uploads.reserve(ALICE)
    waiting = asyncio.Event()
    event_of: Callable[[Mxc], asyncio.Event] = world.arrivals.event

    def noted(mxc: Mxc) -> asyncio.Event:
        waiting.set()
        return event_of(mxc)

    world.arrivals.event = noted  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group:
        find = world.downloads.find
        found = [group.create_task(find(reserved.mxc, timeout_ms=LONG_MS)) for _ in range(3)]
        await waiting.wait()
        upload = Upload(Description("a/b", None), None, pieces_of(b"content"))
        await world.uploads.upload_to(ALICE, reserved.mxc, upload)
    item = found[0].result()
    assert [one.result() for one in found] == [item] * 3
    assert await whole(await world.downloads.read(item)) == b"content"


async def test_the_wait_ends_with_the_clients_time_out(world: MediaWorld) -> None:
    reserved = await world.uploads.reserve(ALICE)
    async with refused(504, "M_NOT_YET_UPLOADED"):
        await world.downloads.find(reserved.mxc, timeout_ms=0)
    async with refused(504, "M_NOT_YET_UPLOADED"):
        await world.downloads.find(reserved.mxc, timeout_ms=20)
    world.clock.at_ms = reserved.expires_ms
    async with refused(404, "M_NOT_FOUND"):
        await world.downloads.find(reserved.mxc, timeout_ms=LONG_MS)


async def test_media_of_other_servers_are_fetched_once(
    world: MediaWorld, other: OtherServer
) -> None:
    async with refused(404, "M_NOT_FOUND"):
        await world.downloads.find(FAR, timeout_ms=7, allow_remote=False)
    assert not other.asked
    for _ in range(2):
        item = await world.downloads.find(FAR, timeout_ms=7)
        assert await whole(await world.downloads.read(item)) == b"far content"
    assert other.asked == [(FAR, 7)]
    await world.downloads.find(FAR, timeout_ms=7, allow_remote=False)


async def test_a_lost_content_of_another_server_is_fetched_again(
    world: MediaWorld, other: OtherServer
) -> None:
    item = await world.downloads.find(FAR, timeout_ms=7)
    assert item.content is not None
    await world.store.delete(item.content.sha256)
    assert await whole(await world.downloads.read(item, 4, 8, timeout_ms=9)) == b"cont"
    assert other.asked == [(FAR, 7), (FAR, 9)]
    await world.store.delete(item.content.sha256)
    other.data = b"another one"
    async with refused(404, "M_NOT_FOUND"):
        await world.downloads.read(item)


async def test_a_lost_content_of_this_server_is_not_found(
    world: MediaWorld, other: OtherServer, caplog: pytest.LogCaptureFixture
) -> None:
    mxc = await world.upload()
    item = await world.downloads.find(mxc, timeout_ms=0)
    assert item.content is not None
    await world.store.delete(item.content.sha256)
    async with refused(404, "M_NOT_FOUND"):
        await world.downloads.read(item)
    assert not other.asked
    assert f"the content of {mxc.uri} is lost" in caplog.text


async def test_quarantined_media_are_not_served_and_not_fetched(
    world: MediaWorld, other: OtherServer
) -> None:
    mxc = await world.upload()
    quarantine = QuarantineTable(world.database)
    await quarantine.add(mxc)
    await quarantine.add_unseen(FAR, now_ms=1)
    for one in (mxc, FAR):
        async with refused(404, "M_NOT_FOUND"):
            await world.downloads.find(one, timeout_ms=0)
    assert not other.asked
    await quarantine.release(mxc)
    assert await world.read(mxc) == b"content"


async def test_what_needs_a_token_is_not_found_without(world: MediaWorld) -> None:
    mxc = await world.upload()
    async with refused(404, "M_NOT_FOUND"):
        await world.downloads.find(mxc, timeout_ms=0, has_token=False)
    await world.database.execute("UPDATE media SET needs_token = false")
    await world.downloads.find(mxc, timeout_ms=0, has_token=False)


async def test_an_access_is_noted(world: MediaWorld) -> None:
    mxc = await world.upload()
    world.clock.at_ms += 2 * HOUR_MS
    await world.downloads.find(mxc, timeout_ms=0)
    assert (await world.item(mxc)).last_access_ms == world.clock.now_ms()
