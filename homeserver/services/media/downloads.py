"""Finds and reads media, of this server and of others.

Rules:
1. Media that were quarantined or deleted, and IDs that ended unused, are 404 M_NOT_FOUND.
2. A URI that waits for its content is waited for, up to the client's `timeout_ms`; then 504
   M_NOT_YET_UPLOADED.
3. Media of other servers come from the cache, or by `RemoteMedia`, which also brings back a content
   that the store has lost.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Protocol

from federation.errors import MatrixError
from federation.events.ids import ServerName
from federation.ports import Clock
from homeserver.errors import not_found
from homeserver.rules.media.mxc import Mxc
from homeserver.services.media.arrivals import ContentArrivals
from homeserver.services.media.contents import Contents
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobContent, BlobMissing
from homeserver.storage.media.media import MediaItem, MediaTable

_log = logging.getLogger(__name__)


class RemoteMedia(Protocol):
    """Brings media of other servers into the cache (`RemoteMediaCache`, and those of tests)."""

    async def fetch(self, mxc: Mxc, *, timeout_ms: int) -> MediaItem:
        """Fetches a content that isn't in the cache or in the store, keeps it (`Contents.receive`,
        `MediaTable.keep_remote`) and returns the complete item. Requests for the same URI at one
        time are one. Raises MatrixError: 404 M_NOT_FOUND, 502 M_TOO_LARGE, 504
        M_NOT_YET_UPLOADED."""


class Downloads:
    """Media by their URIs."""

    def __init__(
        self,
        database: Database,
        contents: Contents,
        server_name: ServerName,
        *,
        clock: Clock,
        arrivals: ContentArrivals,
        remote: RemoteMedia,
    ) -> None:
        self._media, self._contents = MediaTable(database), contents
        self._server_name, self._clock = server_name, clock
        self._arrivals, self._remote = arrivals, remote

    async def find(
        self, mxc: Mxc, *, timeout_ms: int, has_token: bool = True, allow_remote: bool = True
    ) -> MediaItem:
        """Returns a complete item that may be served. Without `has_token` only what was stored
        while the unauthenticated paths served it. Raises 404 M_NOT_FOUND, 504 M_NOT_YET_UPLOADED,
        and what `RemoteMedia` raises."""
        if mxc.origin == self._server_name:
            item = await self._await_content(mxc, timeout_ms)
        else:
            item = await self._find_remote(mxc, timeout_ms, allow_remote=allow_remote)
        if item.is_quarantined or (item.needs_token and not has_token):
            raise _missing()
        await self._media.touch(item, now_ms=self._clock.now_ms())
        return item

    async def read(
        self, item: MediaItem, start: int = 0, stop: int | None = None, *, timeout_ms: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """Returns a complete item's bytes from `start` to before `stop` (None: the end) in pieces,
        which the caller begins with at once. Raises 404 M_NOT_FOUND if the content is lost, or what
        `Contents.read` raises."""
        content = content_of(item)
        try:
            return await self._contents.read(content, start, stop)
        except BlobMissing:
            _log.error("the content of %s is lost from the store", item.mxc.uri)
            if item.mxc.origin == self._server_name:
                raise _missing() from None
        again = await self._remote.fetch(item.mxc, timeout_ms=timeout_ms)
        if content_of(again) != content:
            raise _missing()  # another content than the headers are about
        return await self._contents.read(content, start, stop)

    async def _await_content(self, mxc: Mxc, timeout_ms: int) -> MediaItem:
        arrival = self._arrivals.event(mxc)
        item = await self._load(mxc)
        if item.content is None:
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await arrival.wait()
            except TimeoutError:
                raise MatrixError(
                    504, "M_NOT_YET_UPLOADED", "The content hasn't been uploaded yet"
                ) from None
            item = await self._load(mxc)
            if item.content is None:
                raise _missing()
        return item

    async def _load(self, mxc: Mxc) -> MediaItem:
        """Returns an item of this server that has its content, or may still get it."""
        item = await self._media.load(mxc)
        if item is None or (item.content is None and not self._is_awaited(item)):
            raise _missing()
        return item

    def _is_awaited(self, item: MediaItem) -> bool:
        return item.expires_ms is not None and item.expires_ms > self._clock.now_ms()

    async def _find_remote(self, mxc: Mxc, timeout_ms: int, *, allow_remote: bool) -> MediaItem:
        item = await self._media.load(mxc)
        if item is not None and (item.content is not None or item.is_quarantined):
            return item
        if not allow_remote:
            raise _missing()
        return await self._remote.fetch(mxc, timeout_ms=timeout_ms)


def content_of(item: MediaItem) -> BlobContent:
    """Returns the content of a complete item."""
    assert item.content is not None, "the item is complete"
    return item.content


def _missing() -> MatrixError:
    return not_found("There is no such media")
