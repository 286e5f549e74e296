"""Takes media of this server's users.

Rules:
1. Whatever can be refused is refused before the first byte of the body is read; a size that is
   known beforehand, too.
2. The ID is told, or marked as complete, once the content is safe in the store.
3. A user's quota is exact: the rows are counted in the statement that adds one, one at a time for
   each user. What is on its way isn't counted, but bounded by `MEDIA_UPLOADS_AT_ONCE`.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakValueDictionary

from federation.bounded_cache import BoundedCache
from federation.errors import MatrixError
from federation.events.ids import ServerName, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.config_media import MediaSettings
from homeserver.errors import forbidden, not_found, too_large
from homeserver.rules.media.mxc import Mxc, build_mxc
from homeserver.services.accounts.rate_limits import limit_exceeded
from homeserver.services.media.arrivals import ContentArrivals
from homeserver.services.media.contents import Contents, ContentTooLarge
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobContent
from homeserver.storage.media.media import Description, MediaItem, MediaTable, Quota, QuotaLeft


class Upload(NamedTuple):
    """What a client sends: its description, the size if it was told, and the bytes, which aren't
    read before they are asked for."""

    described: Description
    size: int | None
    pieces: AsyncIterator[bytes]


class Reserved(NamedTuple):
    """A URI whose content comes later, and when it ends unused."""

    mxc: Mxc
    expires_ms: int


class Uploads:
    """Uploads of local users."""

    def __init__(
        self,
        database: Database,
        contents: Contents,
        server_name: ServerName,
        *,
        settings: MediaSettings,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        arrivals: ContentArrivals,
    ) -> None:
        self._media, self._contents, self._server_name = MediaTable(database), contents, server_name
        self._settings, self._clock, self._random_bytes = settings, clock, random_bytes
        self._arrivals = arrivals
        self._left: BoundedCache[UserId, QuotaLeft] = BoundedCache(limits.MEDIA_QUOTAS_CACHED)
        self._under_way: Counter[UserId] = Counter()
        self._adding: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()

    @property
    def bytes_max(self) -> int:
        """The size of an upload that is taken."""
        return self._settings.upload_bytes

    async def upload(self, user_id: UserId, upload: Upload) -> Mxc:
        """Stores an upload under a new URI. Raises 413 M_TOO_LARGE, 403 M_FORBIDDEN beyond the
        quota, 429 M_LIMIT_EXCEEDED, or what the body or the store raises."""
        with self._entering(user_id):
            content = await self._receive(user_id, upload)
            mxc = build_mxc(self._server_name, self._random_bytes(limits.MEDIA_ID_BYTES))
            async with self._lock(user_id):
                is_added = await self._media.add(
                    mxc,
                    user_id,
                    upload.described,
                    content,
                    now_ms=self._clock.now_ms(),
                    needs_token=not self._settings.unauthenticated,
                    quota=self._quota(),
                )
        if not is_added:
            raise self._beyond_quota(user_id)
        return mxc

    async def reserve(self, user_id: UserId) -> Reserved:
        """Gives out a URI. Raises 429 M_LIMIT_EXCEEDED if the user has `MEDIA_PENDING`."""
        mxc = build_mxc(self._server_name, self._random_bytes(limits.MEDIA_ID_BYTES))
        now_ms = self._clock.now_ms()
        expires_ms = now_ms + limits.MEDIA_RESERVED_MS
        async with self._lock(user_id):
            is_reserved = await self._media.reserve(
                mxc,
                user_id,
                now_ms=now_ms,
                expires_ms=expires_ms,
                needs_token=not self._settings.unauthenticated,
            )
        if not is_reserved:
            raise limit_exceeded(limits.MEDIA_PENDING_RETRY_AFTER_S)
        return Reserved(mxc, expires_ms)

    async def upload_to(self, user_id: UserId, mxc: Mxc, upload: Upload) -> None:
        """Stores an upload under a URI that the user was given. Raises as `upload`, and 404
        M_NOT_FOUND, 403 M_FORBIDDEN for another user's, 409 M_CANNOT_OVERWRITE_MEDIA."""
        await self._check_reserved(user_id, mxc)
        with self._entering(user_id):
            content = await self._receive(user_id, upload)
            async with self._lock(user_id):
                is_complete = await self._media.complete(
                    mxc,
                    user_id,
                    upload.described,
                    content,
                    now_ms=self._clock.now_ms(),
                    quota=self._quota(),
                )
        if not is_complete:
            await self._check_reserved(user_id, mxc)  # another upload, or the time, was quicker
            raise self._beyond_quota(user_id)
        self._arrivals.announce(mxc)

    async def _check_reserved(self, user_id: UserId, mxc: Mxc) -> None:
        item = await self._media.load(mxc)
        if item is None or mxc.origin != self._server_name or self._is_over(item):
            raise not_found("There is no such media ID, or its time is over")
        if item.uploader != user_id:
            raise forbidden("The media ID is another user's")
        if item.content is not None:
            raise MatrixError(409, "M_CANNOT_OVERWRITE_MEDIA", "The media was uploaded already")

    def _is_over(self, item: MediaItem) -> bool:
        if item.expires_ms is None:
            return item.content is None
        return item.expires_ms <= self._clock.now_ms()

    async def _receive(self, user_id: UserId, upload: Upload) -> BlobContent:
        size = upload.size or 0
        if size > self.bytes_max:
            raise self._too_large()
        await self._check_quota(user_id, size)
        try:
            content = await self._contents.receive(upload.pieces, bytes_max=self.bytes_max)
        except ContentTooLarge:
            raise self._too_large() from None
        if (left := self._left.get(user_id)) is not None:
            self._left.put(user_id, QuotaLeft(left.bytes - content.size, left.files - 1))
        return content

    async def _check_quota(self, user_id: UserId, size: int) -> None:
        """Refuses an upload beforehand that is beyond the quota. Asks the database only where what
        is known to be left isn't enough."""
        quota = self._quota()
        if quota is None:
            return
        left = self._left.get(user_id)
        if left is None or not left.has_space(size):
            left = await self._media.quota_left(user_id, quota)
            self._left.put(user_id, left)
        if not left.has_space(size):
            raise _beyond_quota()

    @contextmanager
    def _entering(self, user_id: UserId) -> Iterator[None]:
        """Counts an upload that is under way."""
        if self._under_way[user_id] >= limits.MEDIA_UPLOADS_AT_ONCE:
            raise limit_exceeded(limits.MEDIA_PENDING_RETRY_AFTER_S)
        self._under_way[user_id] += 1
        try:
            yield
        finally:
            self._under_way[user_id] -= 1
            if not self._under_way[user_id]:
                del self._under_way[user_id]

    def _lock(self, user_id: UserId) -> asyncio.Lock:
        lock = self._adding.get(user_id)
        if lock is None:
            lock = self._adding[user_id] = asyncio.Lock()
        return lock

    def _quota(self) -> Quota | None:
        quota = self._settings.quota
        if not (quota.bytes or quota.files):
            return None
        since_ms = self._clock.now_ms() - quota.hours * 3600 * 1000
        return Quota(since_ms, quota.bytes or 2**63 - 1, quota.files or 2**63 - 1)

    def _beyond_quota(self, user_id: UserId) -> MatrixError:
        """Returns the refusal of an upload whose row would exceed the quota."""
        self._left.pop(user_id)  # what was known to be left isn't
        return _beyond_quota()

    def _too_large(self) -> MatrixError:
        return too_large(f"The upload is larger than {self.bytes_max} bytes")


def _beyond_quota() -> MatrixError:
    return forbidden("The quota of uploads is used up")
