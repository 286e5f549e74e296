"""Puts contents into the blob store, reads them, and deletes those that nothing refers to.

Rules:
1. `receive` and `put` return once the content is safe in the store; for `MEDIA_UNREFERENCED_MS` it
   stays there. Then the caller stores a row that refers to it (`storage.media`, rule 2).
2. A content that is there already is written again: that costs a rename, and heals a lost file.
3. While the same content is just being deleted, a writer waits, for `MEDIA_DELETION_WAIT_S`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from federation.ports import Clock
from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import (
    BlobContent,
    BlobStore,
    BlobStoreUnavailable,
    BlobWriter,
)
from homeserver.storage.media.blobs import BlobTable


class ContentTooLarge(Exception):
    """The content is larger than its receiver takes."""


class ContentWriter:
    """One content on its way into the store, of at most `bytes_max` bytes."""

    def __init__(
        self,
        writer: BlobWriter,
        expect: Callable[[BlobContent], Awaitable[None]],
        bytes_max: int,
    ) -> None:
        self._writer, self._expect, self._left = writer, expect, bytes_max

    async def write(self, piece: bytes) -> None:
        """Appends a piece. Raises ContentTooLarge or BlobStoreUnavailable."""
        self._left -= len(piece)
        if self._left < 0:
            raise ContentTooLarge
        await self._writer.write(piece)

    async def keep(self) -> BlobContent:
        """Ends the content; returns its name and size once it is safe in the store. Raises
        BlobStoreUnavailable or DatabaseUnavailable."""
        content = await self._writer.finish()
        await self._expect(content)
        await self._writer.keep()
        return content


class Contents:
    """The blob store, with the rows that say what is in it."""

    def __init__(self, store: BlobStore, database: Database, clock: Clock) -> None:
        self._store, self._rows, self._clock = store, BlobTable(database), clock

    async def receive(self, pieces: AsyncIterator[bytes], *, bytes_max: int) -> BlobContent:
        """Stores a content that comes in pieces. Raises ContentTooLarge, BlobStoreUnavailable,
        DatabaseUnavailable, or what the pieces raise; then nothing is kept."""
        async with self.writing(bytes_max=bytes_max) as writer:
            async for piece in pieces:
                await writer.write(piece)
            return await writer.keep()

    @asynccontextmanager
    async def writing(self, *, bytes_max: int) -> AsyncIterator[ContentWriter]:
        """A writer of one content; what wasn't kept at the end of the block is dropped."""
        async with self._store.writing() as writer:
            yield ContentWriter(writer, self._expect, bytes_max)

    async def put(self, data: bytes) -> BlobContent:
        """Stores a content that is in memory. Raises BlobStoreUnavailable or
        DatabaseUnavailable."""
        async with self.writing(bytes_max=len(data)) as writer:
            await writer.write(data)
            return await writer.keep()

    async def read(
        self, content: BlobContent, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Returns the bytes from `start` to before `stop` (None: the end) in pieces, which the
        caller begins with at once. Raises BlobMissing or BlobStoreUnavailable, as each piece
        does."""
        end = content.size if stop is None else stop
        return await self._store.read(content.sha256, start, end)

    async def delete_unreferenced(self) -> int:
        """Deletes contents that nothing refers to; returns their number, 0 while another process
        does it. Raises BlobStoreUnavailable or DatabaseUnavailable; what was begun is finished the
        next time."""
        before_ms = self._clock.now_ms() - limits.MEDIA_UNREFERENCED_MS
        deleted = 0
        async with self._rows.sweeping() as sweep:
            while sweep is not None and (claimed := await sweep.claim(before_ms=before_ms)):
                for sha256 in claimed:
                    await self._store.delete(sha256)
                    await sweep.forget(sha256)
                deleted += len(claimed)
        return deleted

    async def remove_unfinished(self) -> int:
        """Removes what writers left that died; returns the number of files. Raises
        BlobStoreUnavailable."""
        before_s = self._clock.now_ms() / 1000 - limits.MEDIA_UNFINISHED_S
        return await self._store.remove_unfinished(before_s=before_s)

    def close(self) -> None:
        """Ends the store's threads."""
        self._store.close()

    async def _expect(self, content: BlobContent) -> None:
        end_s = self._clock.monotonic_s() + limits.MEDIA_DELETION_WAIT_S
        while not await self._rows.expect(content, now_ms=self._clock.now_ms()):
            if self._clock.monotonic_s() >= end_s:
                raise BlobStoreUnavailable("the same content is being deleted")
            await self._clock.sleep(limits.MEDIA_DELETION_CHECK_S)
