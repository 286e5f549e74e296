"""Thumbnails that other servers make of their media: of videos, documents and kinds of pictures
that this server doesn't look into.

Rules:
1. Media whose type says nothing, encrypted ones first of all, have no thumbnail, and none is asked
   for.
2. A thumbnail has one of the types that the specification has for them, and a bounded size.
3. Where there is none, it isn't asked for again for `MEDIA_REFUSED_S`.

Spec: server-server API, "Content Repository"; client-server API, "Thumbnails".
"""

from __future__ import annotations

import logging

from federation.bounded_cache import ExpiringCache
from federation.errors import MatrixError
from federation.media_ports import ThumbnailWish
from federation.ports import Clock
from federation.transport.media.media_fetcher import MediaFetcher, WantedMedia
from federation.transport.requests.client import FederationError
from homeserver import limits
from homeserver.services.media.contents import Contents
from homeserver.services.media.remote.receiver import StoredMedia
from homeserver.services.media.remote.refusals import MediaRefusal, refusal_of
from homeserver.storage.media.media import MediaItem
from homeserver.storage.media.thumbnails import StoredThumbnail, ThumbnailKey

_log = logging.getLogger(__name__)

_PICTURED = ("image/", "video/", "application/pdf")
_TYPES = frozenset({"image/jpeg", "image/png", "image/apng", "image/gif", "image/webp"})
_NONE = MediaRefusal(
    400, "M_UNKNOWN", "Cannot generate thumbnails for the requested content", is_lasting=True
)


class RemoteThumbnails:
    """Fetches thumbnails into the store."""

    def __init__(self, contents: Contents, fetcher: MediaFetcher, clock: Clock) -> None:
        self._contents, self._fetcher = contents, fetcher
        self._refused: ExpiringCache[ThumbnailKey, MediaRefusal] = ExpiringCache(
            limits.MEDIA_REFUSALS_REMEMBERED, limits.MEDIA_REFUSED_S, clock.monotonic_s
        )

    def may_have(self, item: MediaItem) -> bool:
        """Returns whether another server may have a thumbnail of its media."""
        return item.content_type.lower().startswith(_PICTURED)

    async def fetch(self, item: MediaItem, key: ThumbnailKey) -> StoredThumbnail:
        """Fetches a thumbnail; its content is in the store then. Raises MatrixError: 400 M_UNKNOWN
        where there is none, 502 M_TOO_LARGE, 429, 502 or 504 where the other server can't be asked;
        and what the store raises."""
        refusal = self._refused.get(key)
        if refusal is not None:
            raise refusal.error()
        bytes_max = limits.MEDIA_REMOTE_THUMBNAIL_BYTES
        wanted = WantedMedia(item.mxc.origin, item.mxc.media_id, bytes_max, 0, _wish(key))
        async with self._contents.writing(bytes_max=bytes_max) as writer:
            receiver = StoredMedia(writer)
            try:
                await self._fetcher.fetch(wanted, receiver)
            except FederationError as error:
                _log.info("no thumbnail of %s can be fetched: %s", item.mxc.uri, error)
                raise self._refuse(key, _refusal_of(error)) from error
            content_type = receiver.described.content_type.partition(";")[0].strip().lower()
            if content_type not in _TYPES:
                raise self._refuse(key, _NONE)
            return StoredThumbnail(content_type, await writer.keep())

    def _refuse(self, key: ThumbnailKey, refusal: MediaRefusal) -> MatrixError:
        if refusal.is_lasting:
            self._refused.put(key, refusal)
        return refusal.error()


def _wish(key: ThumbnailKey) -> ThumbnailWish:
    shape = key.shape
    width, height = shape.size
    return ThumbnailWish(width, height, shape.method.value, animated=key.is_animated)


def _refusal_of(error: FederationError) -> MediaRefusal:
    """Returns what to tell; media that are there and have no thumbnail aren't missing."""
    refusal = refusal_of(error)
    is_none = refusal.is_lasting and refusal.errcode != "M_TOO_LARGE"
    return _NONE if is_none else refusal
