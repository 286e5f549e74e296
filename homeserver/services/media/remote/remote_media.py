"""Media of other servers: fetched once, kept as a cache, not asked for again if they can't be had.

Rules:
1. Requests for the same URI at one time are one fetch, which goes on if one of them ends.
2. A content is stored before anybody is served from it: its hash and size are known then, a slow
   reader holds up nobody, and what breaks off or is too large is refused as a whole. The first byte
   comes later for it: of 10 MB from the same machine after 0.14 s instead of 0.01 s.
3. What another server says of the type and the name is made fit to be stored first.
4. What it refuses, what is too large and what isn't media is refused for `MEDIA_REFUSED_S` without
   asking again. That is in memory: a restart costs one request for each.
5. A client is told that media are missing, too large or not there yet; of other failures, not why.

Spec: server-server API, "Content Repository"; client-server API, "Content Repository" (security
considerations).
"""

from __future__ import annotations

import asyncio
import logging

from federation.bounded_cache import ExpiringCache
from federation.errors import MatrixError
from federation.ports import Clock
from federation.transport.media.media_fetcher import MediaFetcher, WantedMedia
from federation.transport.requests.client import FederationError
from homeserver import limits
from homeserver.config_media import MediaSettings
from homeserver.errors import not_found
from homeserver.rules.media.mxc import Mxc
from homeserver.services.media.contents import Contents
from homeserver.services.media.remote.receiver import StoredMedia
from homeserver.services.media.remote.refusals import BUSY, MediaRefusal, refusal_of
from homeserver.storage.database import Database
from homeserver.storage.media.media import MediaItem, MediaTable

_log = logging.getLogger(__name__)


class RemoteMediaCache:
    """Brings media of other servers into the cache. Implements `downloads.RemoteMedia`."""

    def __init__(
        self,
        database: Database,
        contents: Contents,
        fetcher: MediaFetcher,
        *,
        settings: MediaSettings,
        clock: Clock,
    ) -> None:
        self._media, self._contents, self._fetcher = MediaTable(database), contents, fetcher
        self._settings, self._clock = settings, clock
        self._flights: dict[Mxc, asyncio.Future[MediaItem | Exception]] = {}
        self._refused: ExpiringCache[Mxc, MediaRefusal] = ExpiringCache(
            limits.MEDIA_REFUSALS_REMEMBERED, limits.MEDIA_REFUSED_S, clock.monotonic_s
        )

    async def fetch(self, mxc: Mxc, *, timeout_ms: int) -> MediaItem:
        """Fetches a content, keeps it and returns its item. Raises MatrixError: 404 M_NOT_FOUND,
        502 M_TOO_LARGE, 504 M_NOT_YET_UPLOADED, 429, 502 or 504 where the other server can't be
        asked; and what the store raises."""
        while (flight := self._flights.get(mxc)) is not None:
            outcome = await asyncio.shield(flight)
            if isinstance(outcome, MediaItem):
                return outcome
            if not _is_of_the_asker(outcome):
                raise outcome
        return await self._lead(mxc, timeout_ms)

    async def _lead(self, mxc: Mxc, timeout_ms: int) -> MediaItem:
        flight: asyncio.Future[MediaItem | Exception] = asyncio.get_running_loop().create_future()
        self._flights[mxc] = flight
        outcome: MediaItem | Exception = BUSY.error()  # if this is cancelled
        try:
            outcome = await self._fetch(mxc, timeout_ms)
        except Exception as error:
            outcome = error
            raise
        finally:
            del self._flights[mxc]
            flight.set_result(outcome)
        return outcome

    async def _fetch(self, mxc: Mxc, timeout_ms: int) -> MediaItem:
        refusal = self._refused.get(mxc)
        if refusal is not None:
            raise refusal.error()
        bytes_max = self._settings.remote_bytes
        wanted = WantedMedia(mxc.origin, mxc.media_id, bytes_max, timeout_ms)
        async with self._contents.writing(bytes_max=bytes_max) as writer:
            receiver = StoredMedia(writer)
            try:
                await self._fetcher.fetch(wanted, receiver)
            except FederationError as error:
                raise self._refuse(mxc, error) from error
            content = await writer.keep()
        await self._media.keep_remote(
            mxc,
            receiver.described,
            content,
            now_ms=self._clock.now_ms(),
            needs_token=not self._settings.unauthenticated,
        )
        item = await self._media.load(mxc)
        if item is None or item.content is None:
            raise not_found("The media were let go again")
        return item

    def _refuse(self, mxc: Mxc, error: FederationError) -> MatrixError:
        refusal = refusal_of(error)
        if refusal.is_lasting:
            self._refused.put(mxc, refusal)
        _log.info("%s can't be fetched: %s", mxc.uri, error)
        return refusal.error()


def _is_of_the_asker(error: Exception) -> bool:
    """Returns whether a fetch failed for who asked first: its share was used up, or it ended."""
    return isinstance(error, MatrixError) and error.status == BUSY.status
