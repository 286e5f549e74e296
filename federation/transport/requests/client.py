"""Requests to other homeservers: resolved, signed, bounded, with one back-off for all callers.

Rules:
1. A body is written once, as canonical JSON: these bytes are signed and sent.
2. Every failure is one FederationError; `is_retryable` is the retry decision beside it.
3. What shows that a server is down (no connection, time-out, bad certificate, 429, 5xx) counts
   for its back-off; any other answer ends it. While a server is left alone requests fail at once,
   unless a user waits for it (`despite_backoff`).
4. Requests under way are bounded in number (`TurnKind`) and in bytes (`exchange_budget`).

Spec: server-server API, "API standards" and "Request authentication".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from urllib.parse import quote, urlencode

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.limits import (
    DELIVERIES_UNCONFIRMED_AT_ONCE_MAX,
    EXCHANGES_BYTES_MAX,
    EXCHANGES_BYTES_PER_SERVER_MAX,
    FAILURE_CHARACTERS_MAX,
    RETRY_AFTER_DIGITS_MAX,
)
from federation.ports import FederationSettings
from federation.transport.requests.answers import AnswerReader, parse_document, read_document
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.dialer import (
    Bounds,
    Dialer,
    DialError,
    DialFailure,
    Endpoint,
    HttpResponse,
    Outgoing,
    Receiver,
)
from federation.transport.requests.resolve import ResolutionFailed, ServerResolver
from federation.transport.requests.x_matrix import SignedRequest, build_authorization
from federation.transport.scheduling.exchange_budget import ExchangeBudget, OverBudget
from federation.transport.scheduling.scheduler import FetchScheduler, NoTurn

_DEFAULT_BOUNDS = Bounds()
_JSON_HEADERS = {"Content-Type": "application/json"}


class FailureKind(Enum):
    """The reason why a request to another server has no result."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    """No connection."""
    BROKEN = "broken"
    """The connection broke: the server may have the request."""
    CERTIFICATE = "certificate"
    ADDRESS = "address"
    """A private address without permission."""
    UNRESOLVED = "unresolved"
    """The name leads nowhere."""
    BACKING_OFF = "backing_off"
    """Not tried: it failed lately."""
    BUSY = "busy"
    """Not tried, or given up: too much is under way for the same cause, or with the same server."""
    STATUS = "status"
    """An answer other than 200; see `status` and `errcode`."""
    TOO_LARGE = "too_large"
    BAD_JSON = "bad_json"
    """An answer that isn't the JSON object it should be."""
    BAD_MEDIA = "bad_media"
    """An answer that isn't the media it should be, or leads nowhere."""


_DOWN = frozenset(
    {
        FailureKind.TIMEOUT,
        FailureKind.REFUSED,
        FailureKind.BROKEN,
        FailureKind.CERTIFICATE,
        FailureKind.ADDRESS,
        FailureKind.UNRESOLVED,
    }
)
_ANSWERED = frozenset({FailureKind.STATUS, FailureKind.BAD_JSON, FailureKind.BAD_MEDIA})
_OF_THE_REQUEST = frozenset({"M_NOT_YET_UPLOADED", "M_TOO_LARGE"})  # whatever their status


class FederationError(Exception):
    """A request to another server that has no result."""

    def __init__(
        self,
        server: ServerName,
        kind: FailureKind,
        detail: str,
        *,
        status: int | None = None,
        body: JsonObject | None = None,
        retry_after_s: float = 0.0,
        location: str = "",
    ) -> None:
        super().__init__(f"{server}: {kind.value}: {detail}")
        self.server, self.kind, self.detail = server, kind, detail
        self.status, self.retry_after_s = status, retry_after_s
        self.location = location  # where the answer redirects to
        self.body: JsonObject = body or {}

    @property
    def errcode(self) -> str:
        """The `errcode` of the answer; empty where there is none."""
        code = self.body.get("errcode")
        return code if isinstance(code, str) else ""

    @property
    def is_down(self) -> bool:
        """Whether the failure concerns the server as a whole rather than this request."""
        if self.kind is FailureKind.STATUS and self.status is not None:
            if self.errcode in _OF_THE_REQUEST:
                return False
            return self.status == 429 or self.status >= 500
        return self.kind in _DOWN

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.is_down or self.kind in (FailureKind.BACKING_OFF, FailureKind.BUSY)


class TurnKind(Enum):
    """The way in which requests under way are bounded."""

    FETCH = "fetch"
    """By a turn of the request's cause (`scheduling`)."""
    DELIVERY = "delivery"
    """By the caller, one for each server; of servers that haven't been heard from, a few at once.
    Silent servers must not use up connections and look-ups."""
    CALLER = "caller"
    """By the caller, or it has a turn."""


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request to `server`. `target` is percent-encoded (see `build_target`). `must_succeed`: any
    failure but 413 counts for the back-off, as of a transaction, which is sent until it is taken.
    """

    server: ServerName
    method: str
    target: str
    content: JsonObject | None = None
    bounds: Bounds = _DEFAULT_BOUNDS
    despite_backoff: bool = False
    must_succeed: bool = False
    turn: TurnKind = TurnKind.FETCH


@dataclass(frozen=True, slots=True)
class _Handling:
    """What becomes of an answer. `is_kept`: its bytes stay in memory, and count. `find`: says where
    the server is, if it isn't found by its name."""

    receiver: Receiver | None = None
    is_kept: bool = True
    find: Callable[[], Awaitable[Endpoint]] | None = None


_KEPT = _Handling()


def build_target(prefix: str, *parts: str, query: Iterable[tuple[str, str]] = ()) -> str:
    """Returns `prefix` with path parts and a query, percent-encoded."""
    path = prefix + "".join("/" + quote(part, safe="") for part in parts)
    pairs = urlencode(list(query), quote_via=quote, safe="")
    return f"{path}?{pairs}" if pairs else path


class FederationClient:
    """Signs and sends. All of federation's requests go through one of these."""

    def __init__(
        self,
        settings: FederationSettings,
        key: SigningKey,
        *,
        dialer: Dialer,
        resolver: ServerResolver,
        backoffs: Backoffs,
        scheduler: FetchScheduler,
    ) -> None:
        self._name, self._key = settings.server_name, key
        self._dialer, self._resolver, self._backoffs = dialer, resolver, backoffs
        self._scheduler = scheduler
        self._budget = ExchangeBudget(EXCHANGES_BYTES_MAX, EXCHANGES_BYTES_PER_SERVER_MAX)
        self._unconfirmed = asyncio.Semaphore(DELIVERIES_UNCONFIRMED_AT_ONCE_MAX)

    @property
    def backoffs(self) -> Backoffs:
        """The shared table of failing servers."""
        return self._backoffs

    @property
    def bytes_under_way(self) -> int:
        """The bytes of bodies being sent and answers being read."""
        return self._budget.total

    async def is_neighbour(self, server: ServerName) -> bool:
        """Returns whether the server shares a room with us, and answers."""
        return await self._scheduler.is_neighbour(server)

    @asynccontextmanager
    async def turn(self, server: ServerName) -> AsyncIterator[None]:
        """Yields a turn for one request, which is made with `TurnKind.CALLER`. Raises
        FederationError (BUSY)."""
        try:
            async with self._scheduler.turn(server):
                yield
        except NoTurn as error:
            raise FederationError(server, FailureKind.BUSY, str(error)) from None

    async def get(
        self,
        server: ServerName,
        target: str,
        *,
        bounds: Bounds = _DEFAULT_BOUNDS,
        despite_backoff: bool = False,
    ) -> JsonObject:
        """Sends a signed GET; see `request`."""
        return await self.request(
            ServerRequest(server, "GET", target, None, bounds, despite_backoff=despite_backoff)
        )

    async def request(self, request: ServerRequest) -> JsonObject:
        """Returns the JSON object that the server answers with status 200. Raises
        FederationError."""
        body = await self.request_bytes(request)
        try:
            return await read_document(body)
        except NotCanonical as error:
            raise _bad_json(request.server, error) from None

    async def request_into(self, request: ServerRequest, reader: AnswerReader) -> None:
        """Requests as `request` does, for an answer with events or long lists, which the reader
        takes as it arrives."""

        async def feed(part: bytes) -> None:
            try:
                await reader.feed(part)
            except NotCanonical as error:
                raise _bad_json(request.server, error) from None

        await self._send(request, _content(request), _Handling(lambda _headers: feed))
        try:
            await reader.finish()
        except NotCanonical as error:
            raise _bad_json(request.server, error) from None

    async def request_bytes(self, request: ServerRequest) -> bytes:
        """Requests as `request` does, for a caller that parses the body itself."""
        return await self.send(request, _content(request))

    async def send(self, request: ServerRequest, content: bytes | None) -> bytes:
        """Requests as `request_bytes` does, with a body that is encoded as canonical JSON."""
        return await self._send(request, content)

    async def receive(
        self, request: ServerRequest, receiver: Receiver, *, is_signed: bool = True
    ) -> None:
        """Requests as `request` does, for an answer that is handed on as it arrives, and so doesn't
        count among the bytes under way."""
        handling = _Handling(receiver, is_kept=False)
        if is_signed:
            await self._send(request, _content(request), handling)
        else:
            await self._exchange(request, Outgoing("GET", request.target, {}), handling)

    async def receive_from(
        self,
        find: Callable[[], Awaitable[Endpoint]],
        request: ServerRequest,
        receiver: Receiver,
    ) -> None:
        """Requests as `receive` does, without a signature, from a place that the server named;
        `find` looks for it, and may raise FederationError. Turn and back-off are the server's."""
        handling = _Handling(receiver, is_kept=False, find=find)
        await self._exchange(request, Outgoing("GET", request.target, {}), handling)

    async def _send(
        self, request: ServerRequest, content: bytes | None, handling: _Handling = _KEPT
    ) -> bytes:
        authorization = build_authorization(
            SignedRequest(request.method, request.target, content),
            origin=self._name,
            destination=request.server,
            key=self._key,
        )
        headers = {"Authorization": authorization}
        if content is not None:
            headers |= _JSON_HEADERS
        return await self._exchange(
            request, Outgoing(request.method, request.target, headers, content), handling
        )

    async def request_unsigned(self, request: ServerRequest) -> JsonObject:
        """Sends a GET without signature, for published keys. Raises FederationError."""
        body = await self._exchange(request, Outgoing("GET", request.target, {}))
        try:
            document = await read_document(body)
            canonical_json.check(document)
        except NotCanonical as error:
            raise _bad_json(request.server, error) from None
        return document

    async def _exchange(
        self, request: ServerRequest, outgoing: Outgoing, handling: _Handling = _KEPT
    ) -> bytes:
        self._check_backoff(request)
        if request.turn is TurnKind.CALLER:
            return await self._exchange_now(request, outgoing, handling)
        turn = self._delivery if request.turn is TurnKind.DELIVERY else self.turn
        async with turn(request.server):
            self._check_backoff(request)  # it may have failed while this waited
            return await self._exchange_now(request, outgoing, handling)

    @asynccontextmanager
    async def _delivery(self, server: ServerName) -> AsyncIterator[None]:
        if self._backoffs.is_reachable(server):
            yield
            return
        async with self._unconfirmed:
            yield

    def _check_backoff(self, request: ServerRequest) -> None:
        server = request.server
        if not request.despite_backoff and self._backoffs.wait_s(server) > 0:
            state = self._backoffs.of(server)
            detail = state.last_error if state is not None else ""
            raise FederationError(server, FailureKind.BACKING_OFF, detail)

    async def _exchange_now(
        self, request: ServerRequest, outgoing: Outgoing, handling: _Handling
    ) -> bytes:
        server, receiver = request.server, handling.receiver
        try:
            find = handling.find or partial(self._resolver.resolve, server)
            endpoint = await find()
            async with self._budget.use(server) as take:
                take(len(outgoing.body or b""))
                count = take if handling.is_kept else _take_none
                answer = await self._dialer.exchange(
                    endpoint, outgoing, request.bounds, receiver, count
                )
            if answer.status != 200:
                raise _status_error(server, answer)
        except (FederationError, ResolutionFailed, DialError, OverBudget) as error:
            failure = _as_federation_error(server, error)
            self._count(request, failure)
            raise failure from None
        self._backoffs.succeeded(server)
        return answer.body

    def _count(self, request: ServerRequest, failure: FederationError) -> None:
        if failure.is_down or (request.must_succeed and failure.status != 413):
            self._backoffs.failed(failure.server, str(failure), retry_after_s=failure.retry_after_s)
        elif failure.kind in _ANSWERED:
            self._backoffs.succeeded(failure.server)


def _take_none(_count: int) -> None:
    """Counts nothing: the bytes are handed on at once."""


def _content(request: ServerRequest) -> bytes | None:
    return None if request.content is None else encode_content(request.content)


def _bad_json(server: ServerName, error: NotCanonical) -> FederationError:
    return FederationError(server, FailureKind.BAD_JSON, str(error), status=200)


def encode_content(content: JsonObject) -> bytes:
    """Returns a request's body as canonical JSON; with floats (EDUs may have them) as lenient as
    needed."""
    try:
        return canonical_json.encode(content)
    except canonical_json.NotCanonical:
        return canonical_json.encode_lenient(content)


def _as_federation_error(
    server: ServerName, error: FederationError | ResolutionFailed | DialError | OverBudget
) -> FederationError:
    if isinstance(error, FederationError):
        return error
    if isinstance(error, OverBudget):
        return FederationError(server, FailureKind.BUSY, str(error))
    if isinstance(error, ResolutionFailed):
        return FederationError(server, FailureKind.UNRESOLVED, str(error))
    return FederationError(server, _KIND_OF_DIAL[error.kind], error.detail)


_KIND_OF_DIAL = {
    DialFailure.TIMEOUT: FailureKind.TIMEOUT,
    DialFailure.REFUSED: FailureKind.REFUSED,
    DialFailure.BROKEN: FailureKind.BROKEN,
    DialFailure.CERTIFICATE: FailureKind.CERTIFICATE,
    DialFailure.ADDRESS: FailureKind.ADDRESS,
    DialFailure.TOO_LARGE: FailureKind.TOO_LARGE,
}


def _status_error(server: ServerName, answer: HttpResponse) -> FederationError:
    try:
        body = parse_document(answer.body)
    except NotCanonical:
        body = {}  # an error page of a proxy; the status suffices
    retry_after_s = _retry_after_s(answer, body)
    detail = f"{answer.status} {body.get('errcode', '')} {body.get('error', '')}"[
        :FAILURE_CHARACTERS_MAX
    ]
    return FederationError(
        server,
        FailureKind.STATUS,
        detail,
        status=answer.status,
        body=body,
        retry_after_s=retry_after_s,
        location=answer.headers.get("location", ""),
    )


def _retry_after_s(answer: HttpResponse, body: JsonObject) -> float:
    header = answer.headers.get("retry-after", "")
    if header.isdecimal() and len(header) <= RETRY_AFTER_DIGITS_MAX:
        return float(header)
    after_ms = body.get("retry_after_ms")
    return after_ms / 1000 if isinstance(after_ms, int) and after_ms > 0 else 0.0
