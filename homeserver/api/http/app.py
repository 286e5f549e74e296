"""Processes a request: route, token, rate limit, handler, response, and all failures.

Rules:
1. A `MatrixError` becomes its JSON body. An unavailable database, or store of media, becomes 503
   with Retry-After. Any other exception is logged with the request's ID and becomes 500 M_UNKNOWN
   with that ID.
2. No token, no query string and no body ever reaches a log.
3. Every response to a client has the CORS headers; OPTIONS is answered for every path.
4. Handlers run to their end even if the client has disconnected, so that their writes are complete.
5. A stream waits for its reader piece by piece, each at most `STREAM_PIECE_S`, and on the whole
   for as long as it is read at a rate, so that a slow reader costs one piece of memory for a
   bounded time. A failure in its middle breaks the connection off: the body is chunked, or has a
   length, so the client knows that it isn't complete.

Spec: client-server API, "API standards", "Using access tokens", "Web Browser Clients".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from itertools import count
from typing import Protocol, TypeAlias

from aiohttp import web

from federation.causes import Cause, CauseKind, address_cause, caused_by
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.pace import Pace
from federation.ports import Clock
from homeserver import limits
from homeserver.api.http.cors import ClientHeaders
from homeserver.api.http.query import Query
from homeserver.api.http.request import Request
from homeserver.api.http.response import JSON_TYPE, RawJson, Response, Result, Stream, to_json
from homeserver.api.http.router import Match, Router
from homeserver.api.http.routes import Auth, Route
from homeserver.errors import (
    invalid_param,
    missing_token,
    unavailable,
    user_locked,
    user_suspended,
)
from homeserver.metrics import ServerMetrics
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.requester import NO_DEVICE, Requester
from homeserver.services.appservices.identity_assertion import Assertion, IdentityAssertion
from homeserver.storage.database import DatabaseFailing, DatabaseUnavailable, DataRefused
from homeserver.storage.media.blob_store import BlobStoreUnavailable

_log = logging.getLogger(__name__)
_access = logging.getLogger("homeserver.access")
_BEARER = "bearer "
_UNSTABLE_DEVICE = "org.matrix.msc3202.device_id"

FederationHandler: TypeAlias = Callable[
    [web.BaseRequest, Mapping[str, str]], Awaitable[web.StreamResponse]
]
FederationRoute: TypeAlias = tuple[str, str, FederationHandler]


class Authenticator(Protocol):
    """Finds the holder of an access token (`services.accounts.tokens.Tokens`).

    A Protocol: tests of the edge have tokens without accounts.
    """

    async def requester(self, token: str) -> Requester:
        """Raises 401 M_UNKNOWN_TOKEN for an unknown token."""


class HttpApp:
    """All routes of this server behind one function. `on_seen` is called for each authenticated
    request with the requester and the address."""

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        federation: Sequence[FederationRoute] = (),
        tokens: Authenticator,
        appservices: IdentityAssertion | None = None,
        limiter: RateLimiter,
        metrics: ServerMetrics,
        clock: Clock,
        on_seen: Callable[[Requester, str], None] | None = None,
    ) -> None:
        self._dispatch: Router[Route | FederationHandler] = Router()
        for route in routes:
            self._dispatch.add(route.method, route.template, route)
        for method, template, handler in federation:
            self._dispatch.add(method, template, handler)
        self._tokens, self._appservices, self._limiter = tokens, appservices, limiter
        self._metrics, self._clock, self._on_seen = metrics, clock, on_seen
        self._headers = ClientHeaders()
        self._numbers = count(1)

    async def handle(
        self, http: web.BaseRequest, *, is_behind_proxy: bool = False
    ) -> web.StreamResponse:
        """Answers one request; raises only exceptions that end the connection."""
        if http.method == "OPTIONS":
            return web.Response(headers=self._headers.preflight())
        started_s = self._clock.monotonic_s()
        path, _, raw_query = _target(http).partition("?")
        template = "none"
        try:
            _check_encoding(path, raw_query)
            match = self._dispatch.find(http.method, path)
            template = match.template
            if isinstance(match.value, Route):
                result = await self._answer(http, match, raw_query, is_behind_proxy)
                response: web.StreamResponse = (
                    await self._stream(http, result, path)
                    if isinstance(result, Stream)
                    else self._respond(result)
                )
            else:
                address = _address(http, is_behind_proxy=is_behind_proxy)
                with caused_by(address_cause(address)):
                    response = await match.value(http, match.params)
        except MatrixError as error:
            response = self._refusal(error)
        except Exception as error:  # noqa: BLE001 - logged, and answered with 500
            response = self._failure(error, http.method, path)
        self._record(http, path, template, response.status, started_s)
        return response

    async def _answer(
        self,
        http: web.BaseRequest,
        match: Match[Route | FederationHandler],
        raw_query: str,
        is_behind_proxy: bool,
    ) -> Result:
        route = match.value
        assert isinstance(route, Route), "client routes are answered here"
        requester, lapsed_token = None, None
        if route.auth is not Auth.NONE:
            token = access_token(http, raw_query)
            requester = await self._authenticate(token, route, raw_query)
            lapsed_token = token if requester is None else None
        address = _address(http, is_behind_proxy=is_behind_proxy)
        if requester is not None and requester.device_id != NO_DEVICE and self._on_seen is not None:
            self._on_seen(requester, address)
        if route.limit is not None and (requester is None or requester.is_limited):
            cause = _cause(requester, address)  # an IPv6 host has a /64, and one bucket
            self._limiter.check(route.limit, cause.name)
        request = Request(
            http,
            match.params,
            raw_query=raw_query,
            address=address,
            requester=requester,
            body_bytes=_body_bytes(route, requester),
            lapsed_token=lapsed_token,
        )
        with caused_by(_cause(requester, address)):
            result = await route.handler(request)
        if route.waits:
            await self._authenticate(access_token(http, raw_query), route, raw_query)
        return result

    async def _authenticate(
        self, token: str | None, route: Route, raw_query: str
    ) -> Requester | None:
        if token is None:
            if route.auth in (Auth.OPTIONAL, Auth.APPSERVICE):
                return None
            raise missing_token()
        if route.auth is Auth.APPSERVICE:
            return self._appservice(token)
        try:
            requester = await self._requester(token, raw_query)
        except MatrixError as error:
            is_soft = error.extra.get("soft_logout") is True  # an expired token has a holder
            if route.lapsed and error.errcode == "M_UNKNOWN_TOKEN" and not is_soft:
                return None
            raise
        _check_standing(requester, route)
        return requester

    def _appservice(self, token: str) -> Requester | None:
        """Returns the application service with a token, as its own user; None for other tokens."""
        service = None if self._appservices is None else self._appservices.service_of(token)
        if self._appservices is None or service is None:
            return None
        return self._appservices.own(service)

    async def _requester(self, token: str, raw_query: str) -> Requester:
        service = None if self._appservices is None else self._appservices.service_of(token)
        if self._appservices is None or service is None:
            return await self._tokens.requester(token)
        query = Query(raw_query)
        device_id = query.get("device_id") or query.get(_UNSTABLE_DEVICE)
        return await self._appservices.requester(
            service, Assertion(query.get("user_id"), device_id)
        )

    async def _stream(self, http: web.BaseRequest, result: Stream, path: str) -> web.StreamResponse:
        pieces = result.pieces
        try:
            piece = await anext(pieces, b"")  # its error is answered as any other
            headers = self._headers.answer()
            headers["Content-Type"] = result.content_type
            headers.update(result.headers or {})
            response = _Streamed(status=result.status, headers=headers)
            response.content_length = result.size
            await response.prepare(http)
            await self._write(http, response, piece, pieces, path)
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
        return response

    async def _write(
        self,
        http: web.BaseRequest,
        response: web.StreamResponse,
        piece: bytes,
        following: AsyncIterator[bytes],
        path: str,
    ) -> None:
        pace = Pace(bytes_per_s=limits.STREAM_BYTES_PER_S_MIN, patience_s=limits.STREAM_PATIENCE_S)
        try:
            while piece and http.method != "HEAD":
                began_s = self._clock.monotonic_s()
                async with asyncio.timeout(limits.STREAM_PIECE_S):
                    await response.write(piece)
                pace.note(len(piece), self._clock.monotonic_s() - began_s)
                piece = await anext(following, b"")
            async with asyncio.timeout(limits.STREAM_PIECE_S):
                await response.write_eof()
        except Exception as error:  # noqa: BLE001 - logged; the status was sent already
            if not isinstance(error, ConnectionError | TimeoutError):
                self._metrics.http_failures.inc()
            _log.warning("%s %s broke off: %r", http.method, path, error)
            if http.transport is not None:
                http.transport.abort()

    def _respond(self, result: JsonObject | RawJson | Response) -> web.Response:
        headers = self._headers.answer()
        if isinstance(result, Response):
            return self._respond_answer(result)
        headers["Content-Type"] = JSON_TYPE
        data = result.data if isinstance(result, RawJson) else to_json(result)
        return web.Response(body=data, headers=headers)

    def _respond_answer(self, answer: Response) -> web.Response:
        headers = self._headers.answer()
        headers["Content-Type"] = answer.content_type
        headers.update(answer.headers or {})
        body = answer.body
        if isinstance(body, RawJson):
            body = body.data
        elif not isinstance(body, bytes):
            body = to_json(body)
        return web.Response(status=answer.status, body=body, headers=headers)

    def _refusal(self, error: MatrixError) -> web.Response:
        return self._respond_answer(Response(error.status, error.body(), error.headers))

    def _failure(self, error: Exception, method: str, path: str) -> web.Response:
        """Returns the response for a failure that isn't a `MatrixError`."""
        if isinstance(error, DatabaseFailing):
            _log.warning("%s %s: the database fails: %s", method, path, error)
            return self._refusal(unavailable("The database can't do that now"))
        if isinstance(error, DatabaseUnavailable):
            _log.warning("%s %s: the database is away: %s", method, path, error)
            return self._refusal(unavailable("The database can't be reached"))
        if isinstance(error, BlobStoreUnavailable):
            _log.warning("%s %s: the media store is away: %s", method, path, error)
            return self._refusal(unavailable("The media store can't be used now"))
        if isinstance(error, DataRefused) and "CharacterNotInRepertoire" in str(error):
            # Texts from clients may contain NUL; the database's text type can't store it.
            return self._refusal(invalid_param("A text has a NUL character"))
        number = next(self._numbers)
        _log.error("%s %s failed (request %d)", method, path, number, exc_info=error)
        self._metrics.http_failures.inc()
        text = f"Internal server error (request {number})"
        return self._refusal(MatrixError(500, "M_UNKNOWN", text))

    def _record(
        self, http: web.BaseRequest, path: str, template: str, status: int, started_s: float
    ) -> None:
        seconds = self._clock.monotonic_s() - started_s
        self._metrics.http_request_seconds.observe(seconds, http.method, template, str(status))
        if _access.isEnabledFor(logging.INFO):
            _access.info(
                "%s %s %s %d %.1f ms", http.remote, http.method, path, status, seconds * 1000
            )


class _Streamed(web.StreamResponse):
    """A response whose headers go with the first piece, which is there already: one packet, and one
    wake-up of the reader, less."""

    _send_headers_immediately = False


def _check_standing(requester: Requester, route: Route) -> None:
    """Raises 401 M_USER_LOCKED, 403 M_GUEST_ACCESS_FORBIDDEN or 403 M_USER_SUSPENDED where a route
    isn't open to such a user."""
    if requester.is_locked and not route.locked:
        raise user_locked()
    if requester.is_guest and not route.guests:
        raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests can't do this")
    if requester.is_suspended and not route.is_open_to_suspended:
        raise user_suspended()


def _cause(requester: Requester | None, address: str) -> Cause:
    if requester is None:
        return address_cause(address)
    return Cause(CauseKind.USER, requester.user_id)


def _body_bytes(route: Route, requester: Requester | None) -> int:
    """Returns the maximum size of a body: small if no token is required."""
    if requester is not None:
        return route.body_bytes
    return min(route.body_bytes, limits.UNAUTHENTICATED_BODY_BYTES)


def access_token(http: web.BaseRequest, raw_query: str) -> str | None:
    """Returns the token of the header `Authorization: Bearer`, else of the query `access_token`."""
    header = http.headers.get("Authorization")
    if header is not None and header[: len(_BEARER)].lower() == _BEARER:
        return header[len(_BEARER) :].strip()
    if "access_token" in raw_query:
        return Query(raw_query).get("access_token")
    return None


def _target(http: web.BaseRequest) -> str:
    """Returns the request target's path and query; the absolute form (RFC 9112, 3.2.2) is
    shortened.
    """
    target = http.raw_path
    if target.startswith("/"):
        return target
    rest = target.partition("://")[2]
    return rest[slash:] if (slash := rest.find("/")) >= 0 else "/"


def _check_encoding(path: str, raw_query: str) -> None:
    """Checks that raw bytes above 127 are UTF-8 (they should have been percent-encoded)."""
    if not (path.isascii() and raw_query.isascii()):
        try:
            (path + raw_query).encode()
        except UnicodeEncodeError as error:
            raise invalid_param("The request's target isn't UTF-8") from error


def _address(http: web.BaseRequest, *, is_behind_proxy: bool) -> str:
    """Returns the client's address: the last one that our proxy put in X-Forwarded-For, or the
    peer.
    """
    if is_behind_proxy and (forwarded := http.headers.get("X-Forwarded-For")):
        return forwarded.rpartition(",")[2].strip()
    return http.remote or ""
