"""The blob store in an S3 bucket.

Rules:
1. A content is the object `blobs/<SHA-256 in hex>` below the configured prefix. One that fits a
   part is put there in one request. A larger one is uploaded in parts to `incoming/`, while its
   sender sends it, and then copied to its place by S3, which needs no bytes from here.
2. Two parts are in memory at most: the one being filled and the one being sent.
3. A reader fetches `MEDIA_S3_READ_BYTES` at a time, by ranges, so that no request lasts as long as
   a slow client takes.
4. Parts of an upload whose writer died aren't objects, and can't be listed as such: a rule of the
   bucket's lifecycle ends them (docs/operate.md).
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from homeserver import limits
from homeserver.storage.media.blob_store import (
    BlobContent,
    BlobMissing,
    BlobStoreUnavailable,
    Digest,
)

if TYPE_CHECKING:
    from obstore import AsyncWritableFile
    from obstore.store import S3Config

_log = logging.getLogger(__name__)

_INCOMING = "incoming"


def open_bucket(
    bucket: str,
    *,
    prefix: str,
    endpoint: str,
    region: str,
    access_key_id: str,
    secret_access_key: str,
) -> S3Store:
    """Returns the bucket; nothing is asked of it yet. Without `endpoint` it is Amazon's, without
    `access_key_id` the credentials come from the environment."""
    config: S3Config = {"region": region}
    if endpoint:
        config["endpoint"] = endpoint
    if access_key_id:
        config["access_key_id"] = access_key_id
        config["secret_access_key"] = secret_access_key
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "timeout": timedelta(seconds=limits.MEDIA_S3_REQUEST_S),
        },
        retry_config={
            "max_retries": limits.MEDIA_S3_RETRIES,
            "retry_timeout": timedelta(seconds=limits.MEDIA_S3_REQUEST_S),
        },
    )


class S3Blobs:
    """Contents in a bucket. Implements `BlobStore`."""

    def __init__(self, bucket: S3Store) -> None:
        self._bucket = bucket

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[S3Writer]:
        """A writer of one content; what wasn't kept at the end of the block is dropped."""
        writer = S3Writer(self._bucket)
        try:
            yield writer
        finally:
            await writer.close()

    async def read(self, sha256: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Returns the bytes in pieces, as `BlobStore.read`."""
        first = await self._range(sha256, start, stop)
        return self._pieces(first, sha256, start, stop)

    async def _pieces(
        self, first: bytes, sha256: Digest, start: int, stop: int
    ) -> AsyncGenerator[bytes, None]:
        part = first
        while part:
            for place in range(0, len(part), limits.MEDIA_PIECE_BYTES):
                yield part[place : place + limits.MEDIA_PIECE_BYTES]
            start += len(part)
            part = await self._range(sha256, start, stop)

    async def _range(self, sha256: Digest, start: int, stop: int) -> bytes:
        end = min(stop, start + limits.MEDIA_S3_READ_BYTES)
        if start >= end:
            return b""
        with _translated():
            found = await obstore.get_range_async(
                self._bucket, _place(sha256), start=start, end=end
            )
        if len(found) != end - start:
            raise BlobMissing("the object is shorter than its content")
        return bytes(found)

    async def delete(self, sha256: Digest) -> None:
        """Deletes a content, if it is there."""
        await _delete(self._bucket, _place(sha256))

    async def remove_unfinished(self, *, before_s: float) -> int:
        """Removes old objects below `incoming/`; returns their number."""
        with _translated():
            listed = await obstore.list(self._bucket, _INCOMING).collect_async()
        old = [one["path"] for one in listed if one["last_modified"].timestamp() < before_s]
        for path in old:
            await _delete(self._bucket, path)
        return len(old)

    def close(self) -> None:
        """Does nothing: there are no threads."""


class S3Writer:
    """One content on its way to the bucket. Implements `BlobWriter`."""

    def __init__(self, bucket: S3Store) -> None:
        self._bucket = bucket
        self._hash, self._size = hashlib.sha256(), 0
        self._first = bytearray()
        """The content, as long as it fits a part."""
        self._path = f"{_INCOMING}/{secrets.token_hex(16)}"
        self._file: AsyncWritableFile | None = None
        self._is_uploaded = False

    async def write(self, piece: bytes) -> None:
        """Appends a piece."""
        self._hash.update(piece)
        self._size += len(piece)
        if self._file is not None:
            with _translated():
                await self._file.write(piece)
            return
        self._first += piece
        if len(self._first) > limits.MEDIA_S3_PART_BYTES:
            self._file = obstore.open_writer_async(
                self._bucket,
                self._path,
                buffer_size=limits.MEDIA_S3_PART_BYTES,
                max_concurrency=1,
            )
            first, self._first = bytes(self._first), bytearray()
            with _translated():
                await self._file.write(first)

    async def finish(self) -> BlobContent:
        """Ends the content; returns its name and size."""
        if self._file is not None:
            with _translated():
                await self._file.close()
            self._is_uploaded = True
        return self._content

    async def keep(self) -> None:
        """Puts the content into its place."""
        place = _place(self._content.sha256)
        with _translated():
            if self._file is None:
                await obstore.put_async(
                    self._bucket, place, bytes(self._first), use_multipart=False
                )
            else:
                await obstore.copy_async(self._bucket, self._path, place)

    async def close(self) -> None:
        """Drops what is left below `incoming/`: parts are joined first, since only an object can be
        deleted. What S3 doesn't delete now, `remove_unfinished` finds later."""
        if self._file is None:
            return
        try:
            if not self._is_uploaded:
                with _translated():
                    await self._file.close()
            await _delete(self._bucket, self._path)
        except BlobStoreUnavailable as error:
            _log.warning("%s stays in the bucket for now: %s", self._path, error)

    @property
    def _content(self) -> BlobContent:
        return BlobContent(Digest(self._hash.digest()), self._size)


def _place(sha256: Digest) -> str:
    return f"blobs/{sha256.hex()}"


async def _delete(bucket: S3Store, path: str) -> None:
    try:
        with _translated():
            await obstore.delete_async(bucket, path)
    except BlobMissing:
        return


@contextmanager
def _translated() -> Iterator[None]:
    """Turns the library's errors into the store's."""
    try:
        yield
    except FileNotFoundError as error:
        raise BlobMissing(str(error)) from error
    except (BaseError, OSError, ValueError) as error:
        raise BlobStoreUnavailable(f"{type(error).__name__}: {error}") from error
