"""The blob store on a local disk.

Rules:
1. A content is written to a file of its own below `incoming/`, synced, and renamed to
   `blobs/ab/<SHA-256 in hex>`; then that folder is synced. A rename replaces what is there, which
   has the same bytes, and heals a file that was lost.
2. All folders are made, and synced, before the first content.
3. Files are touched on threads of the store's own, `MEDIA_PIECE_BYTES` at a time, in few steps
   (`disk_steps`): each costs a switch of threads. The one exception: what the system has in memory
   is read on the event loop, by a call that fails where it would wait for the disk.
4. While a writer's piece is hashed and written, the next one is gathered: two are in memory.
5. A writer sets the time of its file with each write, so an old file below `incoming/` has none.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import product
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from homeserver import limits
from homeserver.storage.media.blob_store import (
    BlobContent,
    BlobMissing,
    Digest,
)
from homeserver.storage.media.disk_steps import DiskSteps

_AT_ONCE = getattr(os, "RWF_NOWAIT", 0)
"""Of a read: fail where it would wait for the disk. Linux has it."""
_DIGITS = "0123456789abcdef"


class LocalBlobs:
    """Contents below a folder, which is made with the first of them. Implements `BlobStore`."""

    def __init__(self, folder: Path) -> None:
        self._folders = Folders(folder)
        self._threads = ThreadPoolExecutor(limits.MEDIA_DISK_THREADS, thread_name_prefix="media")
        self._memory = memoryview(bytearray(limits.MEDIA_PIECE_BYTES))
        """Where readers on the event loop read to, one piece at a time."""

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[LocalWriter]:
        """A writer of one content; what wasn't kept at the end of the block is dropped."""
        writer = LocalWriter(DiskSteps(self._threads), self._folders)
        try:
            yield writer
        finally:
            await writer.close()

    async def read(self, sha256: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Returns the bytes in pieces, as `BlobStore.read`."""
        steps = DiskSteps(self._threads)
        reader = _Reader(self._folders.place(sha256), start, stop, self._memory)
        try:
            first = await steps.run(reader.first)
        except BaseException:  # cancelled: the step may be about to open the file
            steps.end(reader.close)
            raise
        return _pieces(steps, reader, first)

    async def delete(self, sha256: Digest) -> None:
        """Deletes a content, if it is there."""
        path = self._folders.place(sha256)
        await DiskSteps(self._threads).run(lambda: path.unlink(missing_ok=True))

    async def remove_unfinished(self, *, before_s: float) -> int:
        """Removes old files below `incoming/`; returns their number."""
        return await DiskSteps(self._threads).run(
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
        return Path(self._blobs, name[:2], name)

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

    def __init__(self, steps: DiskSteps, folders: Folders) -> None:
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
            await self._steps.begin(lambda: self._append(pieces))

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
            await asyncio.shield(self._steps.end(self._drop))

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
    """Reads a part of a file; the file is closed with the last piece. `memory`: room for a piece,
    for `next_at_once` alone."""

    def __init__(self, path: Path, start: int, stop: int, memory: memoryview) -> None:
        self._path, self._place, self._stop = path, start, stop
        self._memory = memory
        self._file: int | None = None

    def first(self) -> bytes:
        """Opens the file; returns the first piece, b"" if none is asked for. Raises BlobMissing."""
        try:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise BlobMissing(str(error)) from error
        return self.next()

    def next(self) -> bytes:
        """Returns the next piece, b"" after the last. Raises BlobMissing if the file is shorter."""
        if self._file is None:
            return b""
        wanted = min(self._stop - self._place, limits.MEDIA_PIECE_BYTES)
        piece = os.pread(self._file, wanted, self._place)
        self._place += len(piece)
        if self._place == self._stop or not piece:
            self.close()
        if wanted and not piece:
            raise BlobMissing("the file is shorter than its content")
        return piece

    def next_at_once(self) -> bytes:
        """Returns what the system has in memory of the next piece; b"" if it has nothing, or the
        file is shorter. Never waits for the disk."""
        assert self._file is not None, "there is more"
        if not _AT_ONCE:
            return b""
        wanted = min(self._stop - self._place, limits.MEDIA_PIECE_BYTES)
        try:
            size = os.preadv(self._file, [self._memory[:wanted]], self._place, _AT_ONCE)
        except OSError:  # it isn't in memory, or the file system can't tell
            return b""
        self._place += size
        return bytes(self._memory[:size])

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._file is not None

    @property
    def has_more(self) -> bool:
        """Whether the last piece wasn't read yet."""
        return self._file is not None and self._place < self._stop

    def close_at_once(self) -> bool:
        """Closes the file, unless it was deleted: its end frees its space then, which takes the
        disk its time. *Precondition:* it is open."""
        assert self._file is not None, "it is open"
        if not os.fstat(self._file).st_nlink:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


async def _pieces(steps: DiskSteps, reader: _Reader, first: bytes) -> AsyncGenerator[bytes, None]:
    piece = first
    try:
        while piece:
            yield piece
            piece = b""
            if reader.has_more:
                piece = reader.next_at_once() or await steps.run(reader.next)
    finally:
        if reader.is_open and not reader.close_at_once():
            steps.end(reader.close)


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
