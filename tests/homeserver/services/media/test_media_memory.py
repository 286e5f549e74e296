"""The memory that large media take from one server's store into the other's, and out of it.

Both servers are in this process, so what is measured is the sum of both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from homeserver.config_media import MediaSettings
from homeserver.services.media.contents import Contents
from homeserver.services.media.downloads import content_of
from homeserver.services.media.remote.remote_media import RemoteMediaCache
from homeserver.services.media.served_media import MediaForServers
from homeserver.services.media.uploads import Upload
from homeserver.storage.database import Database
from homeserver.storage.media.local_blobs import LocalBlobs
from homeserver.storage.media.media import Description
from tests.federation.transport.loopback import loopback
from tests.federation.transport.media.test_media_memory import GROWTH_MAX, PIECE, resident_bytes
from tests.homeserver.media_world import ALICE, ELSEWHERE, HERE, MediaWorld
from tests.homeserver.view_world import MANY, Views


class Memory:
    """The memory before, and the most of it since."""

    def __init__(self) -> None:
        self.before = self.most = resident_bytes()

    async def watch(self) -> None:
        """Look often."""
        while True:
            self.most = max(self.most, resident_bytes())
            await asyncio.sleep(0.005)


@asynccontextmanager
async def little_memory() -> AsyncIterator[None]:
    """Hold that the block takes little memory at any time."""
    memory = Memory()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(memory.watch())
        yield
        watching.cancel()
    assert memory.most - memory.before < GROWTH_MAX


async def pieces_of(count: int) -> AsyncGenerator[bytes, None]:
    """Yield so many pieces, none like another."""
    for number in range(count):
        yield number.to_bytes(8, "big") + PIECE[8:]


@pytest.mark.parametrize(
    "count", [800, pytest.param(4_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
async def test_media_of_any_size_take_little_memory_on_both_sides(
    count: int, database: Database, tmp_path: Path
) -> None:
    """210 MB, and in the long run a gigabyte."""
    size = count * len(PIECE)
    world = MediaWorld(database, tmp_path / "far", settings=MediaSettings(upload_bytes=size))
    contents = Contents(LocalBlobs(tmp_path / "near"), database, world.clock)
    views = Views(world, MANY)
    described = Description("video/mp4", "large.mp4")
    async with loopback() as net:
        far, near = await net.peer(HERE), await net.peer(ELSEWHERE)
        served = MediaForServers(world.downloads, views.thumbnails, HERE)
        far.media.open = served.open  # type: ignore[method-assign]
        cache = RemoteMediaCache(
            database,
            contents,
            near.requests.media,
            settings=MediaSettings(remote_bytes=size),
            clock=world.clock,
        )
        small = await world.uploads.upload(ALICE, Upload(described, len(PIECE), pieces_of(1)))
        await cache.fetch(small, timeout_ms=0)  # what there is is loaded
        mxc = await world.uploads.upload(ALICE, Upload(described, size, pieces_of(count)))
        async with little_memory():
            item = await cache.fetch(mxc, timeout_ms=0)
        read = 0
        async with little_memory():
            async for piece in await contents.read(content_of(item)):
                read += len(piece)
        assert read == content_of(item).size == size
    contents.close()
    await views.sandbox.close()
