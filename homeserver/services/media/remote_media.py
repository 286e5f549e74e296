"""Media of other servers: fetched once, kept as a cache, not asked for again if they can't be had.

Rules:
1. Requests for the same URI at one time are one fetch, which goes on if one of them ends.
2. A content is stored before anybody is served from it: its hash and size are known then, a slow
   reader holds up nobody, and what breaks off or is too large is refused as a whole.
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
from dataclasses import dataclass

from federation.bounded_cache import ExpiringCache
from federation.errors import MatrixError
from federation.ports import Clock
from federation.transport.media.media_answers import MediaDescription
from federation.transport.media.media_fetcher import MediaFetcher, WantedMedia
from federation.transport.requests.client import FailureKind, FederationError
from homeserver import limits
from homeserver.config_media import MediaSettings
from homeserver.errors import not_found
from homeserver.rules.media.descriptions import remote_content_type, remote_file_name
from homeserver.rules.media.mxc import Mxc
from homeserver.services.media.contents import Contents, ContentWriter
from homeserver.storage.database import Database
from homeserver.storage.media.media import Description, MediaItem, MediaTable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What a client is told. `is_lasting`: asking again soon would not change it."""

    status: int
    errcode: str
    text: str
    is_lasting: bool = False
    retry_after_ms: int | None = None

    def error(self) -> MatrixError:
        extra = None if self.retry_after_ms is None else {"retry_after_ms": self.retry_after_ms}
        return MatrixError(self.status, self.errcode, self.text, extra=extra)


_MISSING = _Refusal(404, "M_NOT_FOUND", "There is no such media", is_lasting=True)
_TOO_LARGE = _Refusal(502, "M_TOO_LARGE", "The media are too large", is_lasting=True)
_NOT_YET = _Refusal(504, "M_NOT_YET_UPLOADED", "The content hasn't been uploaded yet")
_INVALID = _Refusal(502, "M_UNKNOWN", "The other server's answer isn't media", is_lasting=True)
_SLOW = _Refusal(504, "M_UNKNOWN", "The other server didn't answer in time")
_AWAY = _Refusal(502, "M_UNKNOWN", "The other server could not be asked")
_BUSY = _Refusal(
    429,
    "M_LIMIT_EXCEEDED",
    "Too many requests to other servers",
    retry_after_ms=limits.MEDIA_BUSY_RETRY_AFTER_MS,
)


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
        self._refused: ExpiringCache[Mxc, _Refusal] = ExpiringCache(
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
        outcome: MediaItem | Exception = _BUSY.error()  # if this is cancelled
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
            receiver = _Keeper(writer)
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
        refusal = _refusal_of(error)
        if refusal.is_lasting:
            self._refused.put(mxc, refusal)
        _log.info("%s can't be fetched: %s", mxc.uri, error)
        return refusal.error()


class _Keeper:
    """Puts what comes into the store. Implements `MediaReceiver`."""

    def __init__(self, writer: ContentWriter) -> None:
        self._writer = writer
        self.described = Description(remote_content_type(None), None)

    async def begin(self, description: MediaDescription) -> None:
        self.described = Description(
            remote_content_type(description.content_type),
            remote_file_name(description.file_name),
        )

    async def write(self, piece: bytes) -> None:
        await self._writer.write(piece)


def _is_of_the_asker(error: Exception) -> bool:
    """Returns whether a fetch failed for who asked first: its share was used up, or it ended."""
    return isinstance(error, MatrixError) and error.status == _BUSY.status


def _refusal_of(error: FederationError) -> _Refusal:
    match error.kind:
        case FailureKind.STATUS:
            return _refusal_of_status(error.status or 0, error.errcode)
        case FailureKind.TOO_LARGE:
            return _TOO_LARGE
        case FailureKind.BAD_MEDIA:
            return _INVALID
        case FailureKind.TIMEOUT:
            return _SLOW
        case FailureKind.BUSY:
            return _BUSY
        case _:
            return _AWAY


def _refusal_of_status(status: int, errcode: str) -> _Refusal:
    if errcode == "M_NOT_YET_UPLOADED":
        return _NOT_YET
    if errcode == "M_TOO_LARGE":
        return _TOO_LARGE
    is_final = 400 <= status < 500 and status not in (401, 408, 429)
    return _MISSING if is_final else _AWAY
