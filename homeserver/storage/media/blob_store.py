"""A store of contents, each named by its SHA-256 (`BlobStore`): what every kind of it keeps to.

Rules:
1. A content is written piece by piece, and isn't to be seen before `keep`, which is atomic: a
   reader sees the whole content or none. Memory is bounded, however large it is.
2. When `keep` returns, the content survives a crash.
3. What a writer leaves that died is removed by `remove_unfinished`.
4. Whether a content is wanted is none of the store's business: the rows of `media_blobs` say that.

`LocalBlobs` and `S3Blobs` are the implementers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, NewType, Protocol

Digest = NewType("Digest", bytes)
"""The SHA-256 of a content: 32 bytes."""


class BlobMissing(Exception):
    """The store doesn't have the content."""


class BlobStoreUnavailable(Exception):
    """The store can't be reached, or can't do that now: its disk is full or broken. Nothing was
    kept, and it may work later."""


class BlobContent(NamedTuple):
    """The name and the size in bytes of a content."""

    sha256: Digest
    size: int


class BlobWriter(Protocol):
    """One content on its way into the store. The methods raise BlobStoreUnavailable."""

    async def write(self, piece: bytes) -> None:
        """Appends a piece."""

    async def finish(self) -> BlobContent:
        """Ends the content; returns its name and size. Nothing is written after it."""

    async def keep(self) -> None:
        """Puts the finished content into its place, whether or not it is there already."""


class BlobStore(Protocol):
    """Contents by their SHA-256."""

    def writing(self) -> AbstractAsyncContextManager[BlobWriter]:
        """A writer of one content; what wasn't kept at the end of the block is dropped."""

    async def read(self, sha256: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Returns the bytes from `start` to before `stop` in pieces. *Precondition:*
        0 <= start <= stop <= size. Raises BlobMissing or BlobStoreUnavailable, at once or with a
        piece. The caller begins with the pieces, and closes the generator if it doesn't end."""

    async def delete(self, sha256: Digest) -> None:
        """Deletes a content, if it is there. Raises BlobStoreUnavailable."""

    async def remove_unfinished(self, *, before_s: float) -> int:
        """Removes what unfinished writers left that last wrote before `before_s` (Unix time);
        returns their number. Raises BlobStoreUnavailable."""

    def close(self) -> None:
        """Takes no further work; what is begun ends by itself."""
