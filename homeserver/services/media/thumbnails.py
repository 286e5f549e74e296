"""Thumbnails of media, made in the sandbox once and kept in the store.

Rules:
1. Only what its sender calls a picture of one of `THUMBNAILED_TYPES` is looked into. All else is
   opaque, encrypted media first of all: they are `application/octet-stream`.
2. Of what else of another server may be a picture, that one is asked for a thumbnail, which is
   shown for its own media alone: it may show anything, also in place of an equal content of others.
3. A thumbnail belongs to a content and one of a few shapes. Requests for the same at one time are
   one piece of work. A content that failed isn't tried again for `SANDBOX_FAILURE_S`, in
   whatever shape.
4. A thumbnail whose content the store has lost is made again.

Spec: client-server API, "Thumbnails" and the security considerations of the content repository.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from federation.bounded_cache import ExpiringCache
from federation.errors import MatrixError
from federation.events.ids import ServerName
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import not_found, too_large, unavailable
from homeserver.media.job_orders import THUMBNAIL, ThumbnailFacts, ThumbnailOrder
from homeserver.media.sandbox import Given, Sandbox, SandboxUnavailable
from homeserver.media.sandbox_orders import JobRefusal, JobRefused
from homeserver.media.turns import QueueFull
from homeserver.rules.media.thumbnail_sizes import Method, Shape, Size, choose_shape
from homeserver.services.accounts.rate_limits import limit_exceeded
from homeserver.services.media.contents import Contents
from homeserver.services.media.downloads import Downloads, content_of
from homeserver.services.media.remote.remote_thumbnails import RemoteThumbnails
from homeserver.services.media.shared_work import SharedWork
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobContent, BlobMissing, Digest
from homeserver.storage.media.media import MediaItem
from homeserver.storage.media.thumbnails import StoredThumbnail, ThumbnailKey, ThumbnailTable

_log = logging.getLogger(__name__)

THUMBNAILED_TYPES = frozenset(
    {"image/png", "image/apng", "image/jpeg", "image/jpg", "image/gif", "image/webp", "image/avif"}
)


class Thumbnail(NamedTuple):
    """A thumbnail that was made; without content the item itself is the thumbnail."""

    key: ThumbnailKey
    content_type: str
    content: BlobContent | None


class Thumbnails:
    """Makes, keeps and finds thumbnails."""

    def __init__(
        self,
        database: Database,
        contents: Contents,
        downloads: Downloads,
        sandbox: Sandbox,
        *,
        remote: RemoteThumbnails,
        server_name: ServerName,
        sizes: Sequence[Size],
        clock: Clock,
    ) -> None:
        self._rows = ThumbnailTable(database)
        self._contents, self._downloads, self._sandbox = contents, downloads, sandbox
        self._remote = remote
        self._server_name, self._sizes = server_name, sizes
        self._under_way: SharedWork[ThumbnailKey, StoredThumbnail] = SharedWork()
        self._failures: ExpiringCache[tuple[Digest, bool], JobRefusal] = ExpiringCache(
            limits.SANDBOX_FAILURES, limits.SANDBOX_FAILURE_S, clock.monotonic_s
        )

    def shape_for(self, method: Method, wanted: Size) -> Shape:
        """Returns the shape that answers a request."""
        return choose_shape(method, wanted, self._sizes)

    async def find(
        self, item: MediaItem, shape: Shape, *, is_animated: bool, timeout_ms: int = 0
    ) -> Thumbnail:
        """Returns the thumbnail of a complete item, made if there is none. Raises 400 M_UNKNOWN for
        what can't have one, 413 or 502 M_TOO_LARGE, 429 M_LIMIT_EXCEEDED, 503, or what reading
        the item raises."""
        is_ours = _is_looked_into(item)
        if not is_ours and not self._is_elsewhere(item):
            raise _no_thumbnail()
        content = content_of(item)
        if is_ours and content.size > limits.THUMBNAIL_SOURCE_BYTES:
            raise self._too_large(item)
        maker = "" if is_ours else item.mxc.origin
        key = ThumbnailKey(content.sha256, shape, is_animated, maker)
        if (stored := await self._rows.load(key)) is not None:
            return _served(key, stored)
        refusal = self._failures.get((content.sha256, is_animated))
        if refusal is None:
            try:
                return _served(key, await self._make(item, key, timeout_ms))
            except JobRefused as refused:
                refusal = refused.refusal
                self._failures.put((content.sha256, is_animated), refusal)
        if refusal is JobRefusal.TOO_LARGE:
            raise self._too_large(item)
        raise _no_thumbnail()

    async def read(
        self, item: MediaItem, thumbnail: Thumbnail, start: int, stop: int
    ) -> AsyncGenerator[bytes, None]:
        """Returns a thumbnail's bytes from `start` to before `stop` in pieces, which the caller
        begins with at once. Raises as `Downloads.read`."""
        if thumbnail.content is None:
            return await self._downloads.read(item, start, stop)
        try:
            return await self._contents.read(thumbnail.content, start, stop)
        except BlobMissing:
            _log.error("the thumbnail of %s is lost from the store; it is made again", item.mxc.uri)
        try:
            again = await self._make(item, thumbnail.key, 0)
        except JobRefused:
            raise _no_thumbnail() from None
        if again.content != thumbnail.content:
            raise _no_thumbnail()  # another content than the headers are about
        return await self._contents.read(thumbnail.content, start, stop)

    async def _make(self, item: MediaItem, key: ThumbnailKey, timeout_ms: int) -> StoredThumbnail:
        """Makes a thumbnail, unless another request does. Raises JobRefused, and as `find`."""

        async def work() -> StoredThumbnail:
            return await self._make_now(item, key, timeout_ms)

        return await self._under_way.do(key, work)

    async def _make_now(
        self, item: MediaItem, key: ThumbnailKey, timeout_ms: int
    ) -> StoredThumbnail:
        if not _is_looked_into(item):
            await self._rows.keep(key, await self._remote.fetch(item, key))
            if (fetched := await self._rows.load(key)) is None:
                raise _no_thumbnail()  # the item was deleted meanwhile
            return fetched
        size = key.shape.size
        order = ThumbnailOrder(key.shape.method, size.width, size.height, key.is_animated)
        source = content_of(item)
        try:
            async with aclosing(self._pieces(item, timeout_ms)) as pieces:
                facts, result = await self._sandbox.run(
                    THUMBNAIL, order, Given(source.size, pieces), ThumbnailFacts
                )
        except QueueFull:
            raise limit_exceeded(limits.THUMBNAILS_RETRY_AFTER_S) from None
        except SandboxUnavailable as error:
            _log.error("thumbnails can't be made: %s", error)
            raise unavailable("Thumbnails can't be made now") from error
        except BlobMissing as error:  # in the middle of the content
            raise _no_thumbnail() from error
        content: BlobContent | None = None
        if not facts.is_original:
            content = await self._contents.put(result)
        made = StoredThumbnail(facts.content_type, content)
        await self._rows.keep(key, made)
        return made

    async def _pieces(self, item: MediaItem, timeout_ms: int) -> AsyncGenerator[bytes, None]:
        """Yields an item's content, which is opened when the sandbox asks for it."""
        async with aclosing(await self._downloads.read(item, timeout_ms=timeout_ms)) as pieces:
            async for piece in pieces:
                yield piece

    def _is_elsewhere(self, item: MediaItem) -> bool:
        """Returns whether another server may make the thumbnail."""
        return item.mxc.origin != self._server_name and self._remote.may_have(item)

    def _too_large(self, item: MediaItem) -> MatrixError:
        """Returns the specification's refusals of local and of remote content."""
        if item.mxc.origin == self._server_name:
            return too_large("Content is too large to thumbnail")
        return MatrixError(502, "M_TOO_LARGE", "Content is too large to thumbnail")


def _served(key: ThumbnailKey, stored: StoredThumbnail) -> Thumbnail:
    """Returns a thumbnail that may be served. Raises 404 M_NOT_FOUND for a quarantined content."""
    if stored.is_quarantined:
        raise not_found("There is no such media")
    return Thumbnail(key, stored.content_type, stored.content)


def _is_looked_into(item: MediaItem) -> bool:
    return item.content_type.partition(";")[0].strip().lower() in THUMBNAILED_TYPES


def _no_thumbnail() -> MatrixError:
    return MatrixError(400, "M_UNKNOWN", "Cannot generate thumbnails for the requested content")
