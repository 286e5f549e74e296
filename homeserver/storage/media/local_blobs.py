"""The blob store on a local disk.

Rules:
1. A content is written to a file of its own below `incoming/`, synced, and renamed to
   `blobs/ab/cd/<SHA-256 in hex>`; then the folders are synced. A rename replaces what is there,
   which has the same bytes, and heals a file that was lost.
2. Files are touched on threads of the store's own, `MEDIA_PIECE_BYTES` at a time. The steps of one
   writer, and of one reader, are one after another, even if what waits for them is cancelled: a
   file isn't closed while another thread writes to it.
3. A writer sets the time of its file with each write, so an old file below `incoming/` has none.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from homeserver import limits
from homeserver.storage.media.blob_store import (
    BlobContent,
    BlobMissing,
    BlobStoreUnavailable,
    Digest,
)

T = TypeVar("T")


class LocalBlobs:
    """Contents below a folder, which is made with the first of them. Implements `BlobStore`."""

    def __init__(self, folder: Path) -> None:
        self._blobs, self._incoming = folder / "blobs", folder / "incoming"
        self._threads = ThreadPoolExecutor(limits.MEDIA_DISK_THREADS, thread_name_prefix="media")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[LocalWriter]:
        """A writer of one content; what wasn't kept at the end of the block is dropped."""
        writer = LocalWriter(_Steps(self._threads), self._incoming, self._path)
        try:
            yield writer
        finally:
            await writer.close()

    async def read(self, sha256: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Returns the bytes in pieces, as `BlobStore.read`."""
        steps = _Steps(self._threads)
        file = await steps.run(lambda: _open(self._path(sha256), start))
        return _pieces(steps, file, stop - start)

    async def delete(self, sha256: Digest) -> None:
        """Deletes a content, if it is there."""
        steps = _Steps(self._threads)
        await steps.run(lambda: self._path(sha256).unlink(missing_ok=True))

    async def remove_unfinished(self, *, before_s: float) -> int:
        """Removes old files below `incoming/`; returns their number."""
        return await _Steps(self._threads).run(lambda: _remove_old(self._incoming, before_s))

    def close(self) -> None:
        """Takes no further work; files that are open are closed."""
        self._threads.shutdown(wait=False)

    def _path(self, sha256: Digest) -> Path:
        name = sha256.hex()
        return self._blobs / name[:2] / name[2:4] / name


class LocalWriter:
    """One content on its way to the disk. Implements `BlobWriter`."""

    def __init__(self, steps: _Steps, incoming: Path, place: Callable[[Digest], Path]) -> None:
        self._steps, self._place = steps, place
        self._path = incoming / secrets.token_hex(16)
        self._file: BinaryIO | None = None
        self._hash, self._size = hashlib.sha256(), 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._is_kept = False

    async def write(self, piece: bytes) -> None:
        """Appends a piece."""
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes >= limits.MEDIA_PIECE_BYTES:
            pieces, self._waiting, self._waiting_bytes = self._waiting, [], 0
            await self._steps.run(lambda: self._append(pieces))

    async def finish(self) -> BlobContent:
        """Ends the content; returns its name and size."""
        pieces, self._waiting = self._waiting, []
        await self._steps.run(lambda: self._sync(pieces))
        return self._content

    async def keep(self) -> None:
        """Renames the file to its place."""
        await self._steps.run(self._move)

    async def close(self) -> None:
        """Drops what wasn't kept; the file is closed, even if this is cancelled."""
        await asyncio.shield(asyncio.wrap_future(self._steps.submit(self._drop)))

    @property
    def _content(self) -> BlobContent:
        return BlobContent(Digest(self._hash.digest()), self._size)

    # On a thread

    def _append(self, pieces: list[bytes]) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb", buffering=0)
        for piece in pieces:
            self._hash.update(piece)
            self._size += len(piece)
            _write_all(self._file, piece)

    def _sync(self, pieces: list[bytes]) -> None:
        self._append(pieces)
        assert self._file is not None, "it was opened to append"
        os.fsync(self._file.fileno())
        self._file.close()

    def _move(self) -> None:
        place = self._place(self._content.sha256)
        made = _make_folders(place.parent)
        self._path.rename(place)
        self._is_kept = True
        for folder in (place.parent, *made):
            _sync_folder(folder)

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
            if not self._is_kept:
                self._path.unlink(missing_ok=True)


class _Steps:
    """Runs the steps of one reader or writer on threads, one after another: each waits for the one
    before, which a cancelled caller doesn't. Errors of the disk become BlobStoreUnavailable."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._last: Future[Any] | None = None

    def submit(self, step: Callable[[], T]) -> Future[T]:
        """Begins a step, after the last one."""
        last = self._last

        def run() -> T:
            if last is not None:
                with suppress(Exception):  # its own caller was told
                    last.result()
            return step()

        future: Future[T] = self._threads.submit(run)
        self._last = future
        return future

    async def outcome(self, future: Future[T]) -> T:
        """Waits for a step. Raises BlobStoreUnavailable or BlobMissing."""
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except FileNotFoundError as error:
            raise BlobMissing(str(error)) from error
        except OSError as error:
            raise BlobStoreUnavailable(str(error)) from error

    async def run(self, step: Callable[[], T]) -> T:
        """Begins a step and waits for it; raises as `outcome`."""
        return await self.outcome(self.submit(step))


async def _pieces(steps: _Steps, file: BinaryIO, size: int) -> AsyncGenerator[bytes, None]:
    try:
        while size > 0:
            wanted = min(size, limits.MEDIA_PIECE_BYTES)
            piece = await steps.run(lambda wanted=wanted: file.read(wanted))  # type: ignore[misc]
            if not piece:
                raise BlobMissing("the file is shorter than its content")
            size -= len(piece)
            yield piece
    finally:
        steps.submit(file.close)


def _open(path: Path, start: int) -> BinaryIO:
    """Returns a file at its place `start`."""
    file = path.open("rb", buffering=0)
    file.seek(start)
    return file


def _write_all(file: BinaryIO, piece: bytes) -> None:
    """Writes a piece; one write takes at most what the system accepts at once."""
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]


def _make_folders(folder: Path) -> list[Path]:
    """Makes a folder; returns the folders above it that have a new entry."""
    if folder.is_dir():
        return []
    changed = [*_make_folders(folder.parent), folder.parent]
    folder.mkdir(exist_ok=True)
    return changed


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_old(folder: Path, before_s: float) -> int:
    removed = 0
    if folder.is_dir():
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # its writer has ended
                if path.stat().st_mtime < before_s:
                    path.unlink()
                    removed += 1
    return removed
