"""Media of other servers, fetched from their own server and handed on as they come.

Rules:
1. The signed endpoint is asked first. Only where it isn't known there (404 M_UNRECOGNIZED), the old
   one is, without a signature and with `allow_remote=false`.
2. A redirect, by either, is followed once: `https`, to an address that may be connected to, without
   our signature.
3. Nothing is held in memory, and the size is bounded while the media come. Each request has a time
   limit, one for each wait for bytes, and a rate at which they come.
4. Requests for media have connections, turns and back-off of their own: slow ones don't hold up
   what keeps rooms together, and a server whose media can't be had may still be sent events. A
   server that is left alone for another reason isn't asked for media either.

Spec: server-server API, "Content Repository"; client-server API, "Content Repository" (the
deprecated endpoints).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from federation.events.ids import ServerName
from federation.https_urls import HttpsUrl, parse_https_url
from federation.limits import (
    MEDIA_ENVELOPE_BYTES_MAX,
    MEDIA_FETCHED_BYTES_PER_S_MIN,
    MEDIA_FETCHED_PATIENCE_S_MAX,
    MEDIA_IDLE_S_MAX,
    MEDIA_REQUEST_S_MAX,
    QUOTED_ID_CHARACTERS_MAX,
)
from federation.media_ports import ThumbnailWish
from federation.metrics import FederationMetrics
from federation.pace import Pace, TooSlow
from federation.ports import Clock
from federation.transport.media.media_answers import (
    MediaAnswer,
    MediaInvalid,
    MediaReceiver,
    MediaTooLarge,
    MultipartAnswer,
    PlainAnswer,
)
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.client import (
    FailureKind,
    FederationClient,
    FederationError,
    ServerRequest,
    build_target,
)
from federation.transport.requests.dialer import Bounds, Endpoint, Sink
from federation.transport.requests.urls import Lookup, find_endpoint

_SIGNED = "/_matrix/federation/v1/media"
_OLD = "/_matrix/media/v3"
_REDIRECTS = frozenset({307, 308})
_AnswerKind: TypeAlias = Callable[[Mapping[str, str], MediaReceiver, int], MediaAnswer]


@dataclass(frozen=True, slots=True)
class WantedMedia:
    """Media of another server, of at most `bytes_max` bytes, or a thumbnail of them. `wait_ms` is
    how long that server may wait for an upload."""

    server: ServerName
    media_id: str
    bytes_max: int
    wait_ms: int
    thumbnail: ThumbnailWish | None = None

    @property
    def kind(self) -> str:
        """The endpoint's last word."""
        return "download" if self.thumbnail is None else "thumbnail"

    def query(self) -> list[tuple[str, str]]:
        """Returns the parameters that both endpoints have."""
        pairs = [] if self.thumbnail is None else self.thumbnail.query()
        return [*pairs, ("timeout_ms", str(self.wait_ms))]


class MediaFetcher:
    """Fetches. `client` has the turns and the back-off of media, `backoffs` is that of everything
    else."""

    def __init__(
        self,
        client: FederationClient,
        backoffs: Backoffs,
        lookup: Lookup,
        metrics: FederationMetrics,
        clock: Clock,
    ) -> None:
        self._client, self._backoffs, self._lookup = client, backoffs, lookup
        self._metrics, self._clock = metrics, clock
        backoffs.on_recovered(client.backoffs.succeeded)

    def backoff_s(self, server: ServerName) -> float:
        """Returns for how long a server isn't asked for media; 0.0 when it may be."""
        return max(self._backoffs.wait_s(server), self._client.backoffs.wait_s(server))

    async def fetch(self, wanted: WantedMedia, receiver: MediaReceiver) -> None:
        """Fetches media into the receiver, which has all of them when this returns. Raises
        FederationError (TOO_LARGE, BAD_MEDIA and others), and what the receiver does; then the
        receiver may have a part."""
        try:
            await self._fetch(wanted, receiver)
        except FederationError as error:
            self._metrics.federation_media_fetches.inc(error.kind.value)
            raise
        self._metrics.federation_media_fetches.inc("fetched")

    async def _fetch(self, wanted: WantedMedia, receiver: MediaReceiver) -> None:
        if self._backoffs.wait_s(wanted.server) > 0:
            state = self._backoffs.of(wanted.server)
            detail = state.last_error if state is not None else ""
            raise FederationError(wanted.server, FailureKind.BACKING_OFF, detail)
        try:
            location = await self._fetch_signed(wanted, receiver)
        except FederationError as error:
            if (error.status, error.errcode) != (404, "M_UNRECOGNIZED"):
                raise
            location = await self._fetch_old(wanted, receiver)
        if location is not None:
            await self._fetch_elsewhere(wanted, location, receiver)

    async def _fetch_signed(self, wanted: WantedMedia, receiver: MediaReceiver) -> str | None:
        """Returns where the media are, if they aren't in the answer."""
        target = build_target(f"{_SIGNED}/{wanted.kind}", wanted.media_id, query=wanted.query())
        reading = _Reading(wanted, receiver, MultipartAnswer, self._clock)
        await self._client.receive(_request(wanted, target), reading.open)
        return await reading.finish()

    async def _fetch_old(self, wanted: WantedMedia, receiver: MediaReceiver) -> str | None:
        """Returns where the media are, if the answer redirects."""
        query = [*wanted.query(), ("allow_remote", "false"), ("allow_redirect", "true")]
        target = build_target(f"{_OLD}/{wanted.kind}", wanted.server, wanted.media_id, query=query)
        reading = _Reading(wanted, receiver, PlainAnswer, self._clock)
        try:
            await self._client.receive(_request(wanted, target), reading.open, is_signed=False)
        except FederationError as error:
            if error.status not in _REDIRECTS:
                raise
            return error.location
        return await reading.finish()

    async def _fetch_elsewhere(
        self, wanted: WantedMedia, location: str, receiver: MediaReceiver
    ) -> None:
        try:
            url = parse_https_url(location)
        except ValueError as error:
            quoted = location[:QUOTED_ID_CHARACTERS_MAX]
            raise _bad_media(wanted, f"it leads to {quoted!r}: {error}") from None
        reading = _Reading(wanted, receiver, PlainAnswer, self._clock)
        await self._client.receive_from(
            partial(self._find, wanted, url), _request(wanted, url.target), reading.open
        )
        await reading.finish()

    async def _find(self, wanted: WantedMedia, url: HttpsUrl) -> Endpoint:
        try:
            return await find_endpoint(url, self._lookup)
        except OSError as error:
            detail = f"{url.authority}: {error}"
            raise FederationError(wanted.server, FailureKind.UNRESOLVED, detail) from None


class _Reading:
    """Reads one answer with media; what is wrong with it becomes a FederationError."""

    def __init__(
        self, wanted: WantedMedia, receiver: MediaReceiver, kind: _AnswerKind, clock: Clock
    ) -> None:
        self._wanted, self._receiver, self._kind = wanted, receiver, kind
        self._answer: MediaAnswer | None = None
        self._clock = clock
        self._waits_since_s: float | None = None  # after the first bytes, which may take long
        self._pace = Pace(
            bytes_per_s=MEDIA_FETCHED_BYTES_PER_S_MIN, patience_s=MEDIA_FETCHED_PATIENCE_S_MAX
        )

    def open(self, headers: Mapping[str, str]) -> Sink:
        """See `dialer.Receiver`."""
        with self._as_federation_error():
            self._answer = self._kind(headers, self._receiver, self._wanted.bytes_max)
        return self._feed

    async def _feed(self, data: bytes) -> None:
        assert self._answer is not None, "the headers come before the body"
        with self._as_federation_error():
            if self._waits_since_s is not None:
                self._pace.note(len(data), self._clock.monotonic_s() - self._waits_since_s)
            await self._answer.feed(data)
        self._waits_since_s = self._clock.monotonic_s()

    async def finish(self) -> str | None:
        """Ends the answer; returns where the media are, if it doesn't have them."""
        assert self._answer is not None, "an answer with status 200 was opened"
        with self._as_federation_error():
            await self._answer.finish()
        return self._answer.location

    @contextmanager
    def _as_federation_error(self) -> Iterator[None]:
        try:
            yield
        except MediaInvalid as error:
            raise _bad_media(self._wanted, str(error)) from None
        except MediaTooLarge:
            detail = f"more than {self._wanted.bytes_max} bytes"
            raise FederationError(self._wanted.server, FailureKind.TOO_LARGE, detail) from None
        except TooSlow as error:
            raise FederationError(self._wanted.server, FailureKind.TIMEOUT, str(error)) from None


def _bad_media(wanted: WantedMedia, detail: str) -> FederationError:
    return FederationError(wanted.server, FailureKind.BAD_MEDIA, detail, status=200)


def _request(wanted: WantedMedia, target: str) -> ServerRequest:
    bounds = Bounds(
        timeout_s=MEDIA_REQUEST_S_MAX,
        bytes_max=wanted.bytes_max + MEDIA_ENVELOPE_BYTES_MAX,
        idle_s=MEDIA_IDLE_S_MAX + wanted.wait_ms / 1000,
    )
    return ServerRequest(wanted.server, "GET", target, bounds=bounds)
