"""Contents: the order of row and content, what a death between them leaves, and the sweep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from homeserver import limits
from homeserver.services.media.contents import Contents, ContentTooLarge
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import (
    BlobContent,
    BlobMissing,
    BlobStoreUnavailable,
    BlobWriter,
    Digest,
)
from homeserver.storage.media.blobs import BlobTable
from homeserver.storage.media.local_blobs import LocalBlobs, LocalWriter
from homeserver.storage.media.quarantine import QuarantineTable
from tests.homeserver.media_world import MediaWorld, pieces_of, whole

STEPS = ("write", "finish", "expect", "keep", "kept")


class Dead(Exception):
    """Stands for the end of the process."""


def _close(writer: LocalWriter) -> None:
    if writer._file is not None:
        writer._file.close()


class MortalStore(LocalBlobs):
    """A store whose process dies at a step; then nothing of it is cleaned up."""

    def __init__(self, folder: Path, dies_at: str) -> None:
        super().__init__(folder)
        self.dies_at = dies_at

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[LocalWriter]:
        """A writer that dies."""
        async with super().writing() as writer:
            for name in ("write", "finish", "keep"):
                setattr(writer, name, self._mortal(writer, name))
            yield writer
            if self.dies_at == "kept":
                raise Dead

    def _mortal(self, writer: LocalWriter, name: str) -> object:
        original = getattr(writer, name)

        async def step(*arguments: bytes) -> object:
            if self.dies_at == name:
                writer._drop = partial(_close, writer)  # type: ignore[method-assign]
                if name != "keep":
                    await original(*arguments)
                raise Dead
            return await original(*arguments)

        return step


@pytest.mark.parametrize("dies_at", STEPS)
async def test_whatever_a_dead_writer_leaves_is_swept(
    world: MediaWorld, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no row refers to a content that isn't there."""
    store = MortalStore(world.folder, dies_at)
    contents = Contents(store, world.database, world.clock)
    if dies_at == "expect":

        async def dead(*_: object, **__: object) -> bool:
            raise Dead

        monkeypatch.setattr(BlobTable, "expect", dead)
    data = os.urandom(limits.MEDIA_PIECE_BYTES)
    with pytest.raises(Dead):
        await contents.receive(pieces_of(data), bytes_max=len(data))
    await world.contents.delete_unreferenced()
    await world.contents.remove_unfinished()
    if dies_at == "kept":
        assert world.files == ["blobs"], "it may still get its row"
    world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS + 1
    for path in world.folder.rglob("incoming/*"):
        old_s = world.clock.now_ms() / 1000 - limits.MEDIA_UNFINISHED_S - 1
        os.utime(path, (old_s, old_s))
    await world.contents.delete_unreferenced()
    await world.contents.remove_unfinished()
    assert world.files == []
    assert await world.counts() == []
    store.close()


async def test_a_content_that_is_referred_to_stays(world: MediaWorld) -> None:
    mxc = await world.upload(b"content")
    world.clock.at_ms += 10 * limits.MEDIA_UNREFERENCED_MS
    assert await world.contents.delete_unreferenced() == 0
    assert await world.read(mxc) == b"content"
    await QuarantineTable(world.database).delete(mxc)
    assert await world.contents.delete_unreferenced() == 1
    assert world.files == []


async def test_too_large_a_content_is_given_up_at_once(world: MediaWorld) -> None:
    taken = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(1000)

    with pytest.raises(ContentTooLarge):
        await world.contents.receive(endless(), bytes_max=4999)
    assert taken == 5
    assert world.files == []
    content = await world.contents.receive(pieces_of(bytes(4999)), bytes_max=4999)
    assert content.size == 4999


async def test_a_sender_that_fails_leaves_nothing(world: MediaWorld) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield os.urandom(limits.MEDIA_PIECE_BYTES)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await world.contents.receive(broken(), bytes_max=2**40)
    assert world.files == []
    assert await world.counts() == []


async def test_parts_are_read(world: MediaWorld) -> None:
    content = await world.contents.put(b"0123456789")
    assert await whole(await world.contents.read(content)) == b"0123456789"
    assert await whole(await world.contents.read(content, 3, 5)) == b"34"
    assert await whole(await world.contents.read(content, 8)) == b"89"


async def claim(world: MediaWorld) -> None:
    """Begins the deletion of whatever has no references, and dies."""
    async with BlobTable(world.database).sweeping() as sweep:
        assert sweep is not None
        await sweep.claim(before_ms=world.clock.now_ms() + 1)


async def test_a_second_sweep_leaves_all_to_the_first(world: MediaWorld) -> None:
    await world.contents.put(b"content")
    world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS + 1
    async with BlobTable(world.database).sweeping():
        assert await world.contents.delete_unreferenced() == 0
    assert await world.contents.delete_unreferenced() == 1


async def test_a_writer_waits_for_the_deletion_of_the_same_content(world: MediaWorld) -> None:
    content = await world.contents.put(b"content")
    await claim(world)

    async def delete() -> None:
        await world.store.delete(content.sha256)
        async with BlobTable(world.database).sweeping() as sweep:
            assert sweep is not None
            await sweep.forget(content.sha256)

    sleeps = 0
    original = world.clock.sleep

    async def sleep(seconds: float) -> None:
        nonlocal sleeps
        assert seconds == limits.MEDIA_DELETION_CHECK_S
        sleeps += 1
        if sleeps == 3:
            await delete()
        await original(seconds)

    world.clock.sleep = sleep  # type: ignore[method-assign]
    assert await world.contents.put(b"content") == content
    assert sleeps == 3
    assert await whole(await world.contents.read(content)) == b"content"


async def test_the_wait_for_a_deletion_is_bounded(world: MediaWorld) -> None:
    await world.contents.put(b"content")
    await claim(world)
    began_s = world.clock.monotonic_s()
    with pytest.raises(BlobStoreUnavailable, match="being deleted"):
        await world.contents.put(b"content")
    waited_s = world.clock.monotonic_s() - began_s
    assert waited_s >= limits.MEDIA_DELETION_WAIT_S
    assert waited_s < limits.MEDIA_DELETION_WAIT_S + 2 * limits.MEDIA_DELETION_CHECK_S
    assert await world.contents.delete_unreferenced() == 1, "the claim of the dead is finished"
    await world.contents.put(b"content")


class PausedStore:
    """A store that pauses in its deletions."""

    def __init__(self, store: LocalBlobs) -> None:
        self._store = store
        self.is_deleting, self.may_delete = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[BlobWriter]:
        """The store's."""
        async with self._store.writing() as writer:
            yield writer

    async def read(self, sha256: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The store's."""
        return await self._store.read(sha256, start, stop)

    async def delete(self, sha256: Digest) -> None:
        """The store's, once it may."""
        self.is_deleting.set()
        await self.may_delete.wait()
        await self._store.delete(sha256)

    async def remove_unfinished(self, *, before_s: float) -> int:
        """The store's."""
        return await self._store.remove_unfinished(before_s=before_s)

    def close(self) -> None:
        """The store's."""
        self._store.close()


async def test_an_upload_during_the_deletion_of_its_content_keeps_it(
    database: Database, tmp_path: Path
) -> None:
    """In whatever order they come: the row that refers to it has its content."""
    paused = PausedStore(LocalBlobs(tmp_path))
    world = MediaWorld(database, tmp_path, store=paused)
    content = await world.contents.put(b"content")
    world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS + 1
    async with asyncio.TaskGroup() as group:
        group.create_task(world.contents.delete_unreferenced())
        await paused.is_deleting.wait()
        original = world.clock.sleep

        async def sleep(seconds: float) -> None:
            paused.may_delete.set()
            await asyncio.sleep(0.001)
            world.clock.at_ms += 1

        world.clock.sleep = sleep  # type: ignore[method-assign]
        upload = group.create_task(world.upload(b"content"))
    world.clock.sleep = original  # type: ignore[method-assign]
    assert await world.read(upload.result()) == b"content"
    assert await world.counts() == [1]
    assert isinstance(content, BlobContent)


async def test_a_lost_content_is_missing(world: MediaWorld) -> None:
    content = await world.contents.put(b"content")
    await world.store.delete(content.sha256)
    with pytest.raises(BlobMissing):
        await world.contents.read(content)
    world.contents.close()
