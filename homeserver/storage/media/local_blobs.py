"""The blob store on a local disk.

Rules:
1. A content is written to a file of its own below `incoming/`, synced, and renamed to
   `blobs/ab/<SHA-256 in hex>`; then that folder is synced. A rename replaces what is there, which
   has the same bytes, and heals a file that was lost.
2. All folders are made, and synced, before the first content.
3. Files are touched on threads of the store's own, `MEDIA_PIECE_BYTES` at a time, in few steps:
   each costs a switch of threads. The steps of one writer, and of one reader, are one after
   another, even if what waits for them is cancelled: a file isn't closed while another thread
   writes to it.
4. A writer sets the time of its file with each write, so an old file below `incoming/` has none.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeVar

from homeserver import limits
from homeserver.storage.media.blob_store import (
    BlobContent,
    BlobMissing,
    BlobStoreUnavailable,
    Digest,
)

T = TypeVar("T")
_DIGITS = "0123456789abcdef"


class LocalBlobs:
    """Contents below a folder, which is made with the first of them. Implements `BlobStore`."""

    def __init__(self, folder: Path) -> None:
        self._folders = Folders(folder)
        self._threads = ThreadPoolExecutor(limits.MEDIA_DISK_THREADS, thread_name_prefix="media")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[LocalWriter]:
        """A writer of one content; what wasn't kept at the end of the block is dropped."""
        writer = LocalWriter(_Steps(self._threads), self._folders)
        try:
            yield writer
        finally:
            await writer.close()

    async def read(self, sha256: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Returns the bytes in pieces, as `BlobStore.read`."""
        steps = _Steps(self._threads)
        reader = _Reader(self._folders.place(sha256), start, stop)
        return _pieces(steps, reader, await steps.run(reader.first))

    async def delete(self, sha256: Digest) -> None:
        """Deletes a content, if it is there."""
        path = self._folders.place(sha256)
        await _Steps(self._threads).run(lambda: path.unlink(missing_ok=True))

    async def remove_unfinished(self, *, before_s: float) -> int:
        """Removes old files below `incoming/`; returns their number."""
        return await _Steps(self._threads).run(
            lambda: _remove_old(self._folders.incoming, before_s)
        )

    def close(self) -> None:
        """Takes no further work; files that are open are closed."""
        self._threads.shutdown(wait=False)


class Folders:
    """The folders of a store."""

    def __init__(self, folder: Path) -> None:
        self._blobs, self.incoming = folder / "blobs", folder / "incoming"
        self._lock, self._are_made = Lock(), False

    def place(self, sha256: Digest) -> Path:
        """Returns where a content is."""
        name = sha256.hex()
        return self._blobs / name[:2] / name

    def make(self) -> None:
        """Makes all folders, unless this was done; they survive a crash once it returns."""
        with self._lock:
            if self._are_made:
                return
            self.incoming.mkdir(parents=True, exist_ok=True)
            self._blobs.mkdir(exist_ok=True)
            for high, low in product(_DIGITS, repeat=2):
                (self._blobs / f"{high}{low}").mkdir(exist_ok=True)
            for folder in (self._blobs, self._blobs.parent, self._blobs.parent.parent):
                _sync_folder(folder)
            self._are_made = True


class LocalWriter:
    """One content on its way to the disk. Implements `BlobWriter`."""

    def __init__(self, steps: _Steps, folders: Folders) -> None:
        self._steps, self._folders = steps, folders
        self._path = folders.incoming / secrets.token_hex(16)
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
        if self._steps.are_begun and not self._is_kept:
            await asyncio.shield(asyncio.wrap_future(self._steps.submit(self._drop)))

    @property
    def _content(self) -> BlobContent:
        return BlobContent(Digest(self._hash.digest()), self._size)

    # On a thread

    def _append(self, pieces: list[bytes]) -> None:
        if self._file is None:
            self._folders.make()
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
        place = self._folders.place(self._content.sha256)
        self._path.rename(place)
        self._is_kept = True
        _sync_folder(place.parent)

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
            if not self._is_kept:
                self._path.unlink(missing_ok=True)


class _Reader:
    """Reads a part of a file, on threads; the file is closed with the last piece."""

    def __init__(self, path: Path, start: int, stop: int) -> None:
        self._path, self._start, self._size = path, start, stop - start
        self._file: BinaryIO | None = None

    def first(self) -> bytes:
        """Opens the file; returns the first piece, b"" if none is asked for. Raises BlobMissing."""
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise BlobMissing(str(error)) from error
        self._file.seek(self._start)
        return self.next()

    def next(self) -> bytes:
        """Returns the next piece, b"" after the last. Raises BlobMissing if the file is shorter."""
        if self._file is None:
            return b""
        wanted = min(self._size, limits.MEDIA_PIECE_BYTES)
        piece = self._file.read(wanted)
        self._size -= len(piece)
        if not self._size or not piece:
            self.close()
        if wanted and not piece:
            raise BlobMissing("the file is shorter than its content")
        return piece

    @property
    def is_open(self) -> bool:
        """Whether there is more."""
        return self._file is not None

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _Steps:
    """Runs the steps of one reader or writer on threads, one after another: each waits for the one
    before, which a cancelled caller doesn't. Errors of the disk become BlobStoreUnavailable."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._last: Future[Any] | None = None

    @property
    def are_begun(self) -> bool:
        """Whether there was a step."""
        return self._last is not None

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

    async def run(self, step: Callable[[], T]) -> T:
        """Begins a step and waits for it. Raises BlobStoreUnavailable, or what the step raises."""
        try:
            return await asyncio.wrap_future(self.submit(step))
        except OSError as error:
            raise BlobStoreUnavailable(str(error)) from error


async def _pieces(steps: _Steps, reader: _Reader, first: bytes) -> AsyncGenerator[bytes, None]:
    piece = first
    try:
        while piece:
            yield piece
            piece = await steps.run(reader.next) if reader.is_open else b""
    finally:
        if reader.is_open:
            steps.submit(reader.close)


def _write_all(file: BinaryIO, piece: bytes) -> None:
    """Writes a piece; one write takes at most what the system accepts at once."""
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]


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
