"""The blob store on a disk, and what any blob store does (`store_checks`)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from homeserver import limits
from homeserver.storage.media import local_blobs
from homeserver.storage.media.blob_store import BlobMissing, BlobStoreUnavailable
from homeserver.storage.media.local_blobs import LocalBlobs
from tests.homeserver.media_world import whole
from tests.homeserver.storage.media import store_checks
from tests.homeserver.storage.media.store_checks import CHECKS, Check, keep

LARGE = os.urandom(3 * limits.MEDIA_PIECE_BYTES + 17)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalBlobs]:
    store = LocalBlobs(tmp_path / "media")
    yield store
    store.close()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_is_a_blob_store(store: LocalBlobs, check: Check) -> None:
    await check(store, len(LARGE))


async def test_a_content_is_a_file_by_its_hash(store: LocalBlobs, tmp_path: Path) -> None:
    content = await keep(store, LARGE)
    name = hashlib.sha256(LARGE).hexdigest()
    [path] = files(tmp_path)
    assert path == tmp_path / "media" / "blobs" / name[:2] / name
    assert path.read_bytes() == LARGE
    assert content == (bytes.fromhex(name), len(LARGE))


async def test_a_file_that_was_lost_is_healed_by_the_next_writer(
    store: LocalBlobs, tmp_path: Path
) -> None:
    content = await keep(store, LARGE)
    [path] = files(tmp_path)
    path.unlink()
    with pytest.raises(BlobMissing):
        await store.read(content.sha256, 0, content.size)
    path.write_bytes(LARGE[:100])
    with pytest.raises(BlobMissing):
        await whole(await store.read(content.sha256, 0, content.size))
    await keep(store, LARGE)
    assert await whole(await store.read(content.sha256, 0, content.size)) == LARGE


async def test_a_folder_without_space_or_rights_is_unavailable(
    store: LocalBlobs, tmp_path: Path
) -> None:
    (tmp_path / "media").write_text("not a folder")
    with pytest.raises(BlobStoreUnavailable):
        await keep(store, LARGE)


async def test_names_of_contents_survive_a_crash(
    store: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced before it is renamed, and the folders with new entries after it."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.rename

    def noted_sync(descriptor: int) -> None:
        steps.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2])
        sync(descriptor)

    def noted_rename(path: Path, place: Path) -> Path:
        steps.append("rename " + path.name)
        return rename(path, place)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    above = tmp_path.name
    for folders in (["sync blobs", "sync media", f"sync {above}"], []):
        content = await keep(store, b"x")
        assert steps[: len(folders)] == folders, "folders are made and synced first, and once"
        written = steps[len(folders)].removeprefix("sync ")
        folder = content.sha256.hex()[:2]
        assert steps[len(folders) :] == [
            f"sync {written}",
            f"rename {written}",
            f"sync {folder}",
        ]
        steps.clear()


async def test_a_cancelled_writer_closes_its_file_once_its_thread_is_done(
    store: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the number of the file could be another one's while the thread writes to it."""
    may_write, is_writing = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    failures: list[BaseException] = []
    write_all = local_blobs._write_all

    def slow_write(file: object, piece: bytes) -> None:
        loop.call_soon_threadsafe(is_writing.set)
        may_write.wait(30)
        try:
            write_all(file, piece)  # type: ignore[arg-type]
        except BaseException as error:
            failures.append(error)
            raise

    monkeypatch.setattr(local_blobs, "_write_all", slow_write)

    async def upload() -> None:
        async with store.writing() as writer:
            await writer.write(LARGE)  # begins to be written
            await writer.write(LARGE)  # waits for that
            pytest.fail("two pieces are in memory, and a third")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(upload())
        await is_writing.wait()
        task.cancel()
        await asyncio.sleep(0)
        may_write.set()
    assert task.cancelled()
    assert not failures
    assert not files(tmp_path)


async def test_readers_and_writers_share_a_few_threads(
    store: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = await keep(store, b"x")
    at_once, most, lock = 0, 0, threading.Lock()
    full, first = threading.Barrier(limits.MEDIA_DISK_THREADS), local_blobs._Reader.first

    def counted(reader: local_blobs._Reader) -> bytes:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        full.wait(60)
        with lock:
            at_once -= 1
        return first(reader)

    monkeypatch.setattr(local_blobs._Reader, "first", counted)
    readers = [store.read(content.sha256, 0, 1) for _ in range(2 * limits.MEDIA_DISK_THREADS)]
    found = [await whole(pieces) for pieces in await asyncio.gather(*readers)]
    assert found == [b"x"] * len(readers)
    assert most == limits.MEDIA_DISK_THREADS


async def test_a_piece_is_written_while_the_next_one_comes(
    store: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write_all = threading.Event(), local_blobs._write_all

    def slow_write(file: object, piece: bytes) -> None:
        assert may_write.wait(60)
        write_all(file, piece)  # type: ignore[arg-type]

    monkeypatch.setattr(local_blobs, "_write_all", slow_write)
    async with store.writing() as writer:
        await writer.write(LARGE)
        await writer.write(b"x")
        may_write.set()
        content = await writer.finish()
        await writer.keep()
    assert await whole(await store.read(content.sha256, 0, content.size)) == LARGE + b"x"


async def test_a_piece_that_can_not_be_written_fails_the_content(
    store: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody waits for it, and whatever is done next."""

    def full(_file: object, piece: bytes) -> None:
        if len(piece) > 1:
            raise OSError(28, "No space left on device")

    async def write(more: bytes) -> None:
        async with store.writing() as writer:
            await writer.write(LARGE)
            await writer.write(more)
            await writer.finish()

    monkeypatch.setattr(local_blobs, "_write_all", full)
    for more in (b"x", LARGE):
        with pytest.raises(BlobStoreUnavailable, match="No space"):
            await write(more)
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("in_memory", "on_threads"),
    [(limits.MEDIA_PIECE_BYTES, 1), (100, 1), (0, 4), (BlockingIOError(11, ""), 4), (None, 4)],
)
async def test_only_what_is_not_in_memory_is_read_on_a_thread(
    store: LocalBlobs,
    monkeypatch: pytest.MonkeyPatch,
    in_memory: int | OSError | None,
    on_threads: int,
) -> None:
    """The first piece is, since the file is opened there. Then the system has all of a piece in
    memory, only its beginning, or nothing; or it can't tell."""
    content = await keep(store, LARGE)
    threads, pread = list[int](), os.pread

    def read(file: int, size: int, place: int) -> bytes:
        threads.append(threading.get_ident())
        return pread(file, size, place)

    def read_at_once(file: int, buffers: list[memoryview], place: int, flags: int) -> int:
        assert flags == local_blobs._AT_ONCE != 0
        if isinstance(in_memory, OSError):
            raise in_memory
        piece = pread(file, min(in_memory or 0, len(buffers[0])), place)
        buffers[0][: len(piece)] = piece
        return len(piece)

    monkeypatch.setattr(os, "pread", read)
    monkeypatch.setattr(os, "preadv", read_at_once)
    monkeypatch.setattr(local_blobs, "_AT_ONCE", 0 if in_memory is None else 8)
    assert await whole(await store.read(content.sha256, 0, content.size)) == LARGE
    assert len(threads) == on_threads
    assert threading.get_ident() not in threads


async def test_a_reader_leaves_no_file_open(store: LocalBlobs, tmp_path: Path) -> None:
    """Neither one that stops early, nor one whose file was deleted meanwhile, nor one that is
    cancelled before its first piece."""
    content = await keep(store, LARGE)
    place = str(store._folders.place(content.sha256))

    def open_files() -> int:
        links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return sum(os.readlink(one).startswith(place) for one in links if one.is_symlink())

    pieces = await store.read(content.sha256, 0, content.size)
    await anext(pieces)
    assert open_files() == 1
    await pieces.aclose()
    assert open_files() == 0
    reading = asyncio.create_task(store.read(content.sha256, 0, content.size))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    pieces = await store.read(content.sha256, 0, content.size)
    await anext(pieces)
    await store.delete(content.sha256)
    await pieces.aclose()
    store.close()
    store._threads.shutdown(wait=True)
    assert open_files() == 0


async def test_files_of_dead_writers_go_when_they_are_old(
    store: LocalBlobs, tmp_path: Path
) -> None:
    async with store.writing() as writer:
        await writer.write(LARGE)
        await writer.finish()
        [path] = files(tmp_path)
        written_s = path.stat().st_mtime
        assert await store.remove_unfinished(before_s=written_s) == 0
        assert await store.remove_unfinished(before_s=written_s + 1) == 1
        assert not files(tmp_path)


def test_checks_are_found() -> None:
    assert len(CHECKS) == sum(name.startswith("check_") for name in vars(store_checks))
