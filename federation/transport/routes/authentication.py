"""Authenticates the sender of a request before any of its body is read.

Rules:
1. First how much the address, and the claimed origin, have asked lately (`request_rates`); then the
   X-Matrix headers: well-formed, `destination` (when given) us, the origin another server
   than us, with a key that is valid now. Only then is the body read. Several headers of one origin
   may be given: one valid one is enough, a few are tried.
2. The signature covers the body as canonical JSON. Most servers send just that, so the bytes are
   tried as they came: nothing unsigned is parsed. Ed25519 reads a message twice, and no library
   takes it in parts, so a body is kept, counted against budgets (`budgets`), until it is whole.
   A body that is spelled otherwise is spelled anew (`bodies`), and the canonical form is what is
   read from then on.
3. The other side learns that the request isn't authenticated, not which check failed.

Spec: server-server API, "Request authentication".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple
from urllib.parse import parse_qsl

from aiohttp import web

from federation.causes import current_cause
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.events.signing import SignatureInvalid, VerifyKey
from federation.limits import (
    AUTHORIZATION_HEADERS_MAX,
    BODIES_BYTES_MAX,
    BODIES_BYTES_PER_ADDRESS_MAX,
    BUSY_RETRY_AFTER_MS,
    PARSED_AT_ONCE_BYTES_MAX,
    QUERY_FIELDS_MAX,
    VERIFIED_AT_ONCE_BYTES_MAX,
)
from federation.ports import Clock
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.keyring import KeyDelayed, Keyring, KeyUnavailable
from federation.transport.requests.x_matrix import (
    BadAuthorization,
    Credentials,
    SignedRequest,
    parse_authorization,
    verify_request,
)
from federation.transport.routes.bodies import CanonicalBodies, parse_object, read_body
from federation.transport.routes.budgets import ByteBudget
from federation.transport.routes.request_rates import RequestRates


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """An authenticated request. `params` are the decoded path parts, `query` decoded pairs in
    order, `content` the body (empty where there is none, or where the handler reads `body`)."""

    origin: ServerName
    params: Mapping[str, str]
    query: list[tuple[str, str]]
    content: JsonObject
    body: bytes = b""

    def first(self, name: str) -> str | None:
        """Returns the first value of a query field."""
        return next((value for key, value in self.query if key == name), None)

    def required(self, name: str) -> str:
        """As `first`; raises MatrixError where there is none."""
        value = self.first(name)
        if value is None:
            raise MatrixError(400, "M_MISSING_PARAM", f"{name} is missing")
        return value

    def every(self, name: str) -> list[str]:
        """Returns all values of a query field."""
        return [value for key, value in self.query if key == name]


def parse_query(target: str) -> list[tuple[str, str]]:
    """Returns the decoded query of a request target, in order."""
    _, _, query = target.partition("?")
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise MatrixError(400, "M_INVALID_PARAM", "too many query fields") from None


class Reads(Enum):
    """The way in which the body of an authenticated request is read."""

    DOCUMENT = "document"
    """As a JSON object, nested at most `NESTING_MAX` levels."""
    NOTHING = "nothing"
    """Not here: the handler cuts it itself."""


class _Claim(NamedTuple):
    """The claim of a header, with the key that can prove it."""

    credentials: Credentials
    key: VerifyKey


class ServerAuthenticator:
    """Authenticates other servers."""

    def __init__(
        self, name: ServerName, keyring: Keyring, backoffs: Backoffs, clock: Clock
    ) -> None:
        self._name, self._keyring, self._backoffs = name, keyring, backoffs
        self._rates = RequestRates(clock)
        self._bodies = CanonicalBodies()
        self._budget = ByteBudget(BODIES_BYTES_MAX, BODIES_BYTES_PER_ADDRESS_MAX)

    async def authenticate(
        self,
        request: web.BaseRequest,
        params: Mapping[str, str],
        bytes_max: int,
        reads: Reads = Reads.DOCUMENT,
    ) -> PeerRequest:
        """Returns the request with its authenticated origin. Raises MatrixError (401, 400, 413,
        408, 429, 503)."""
        address = current_cause()
        self._rates.enter(address)
        claims = await self._claims(request)
        if not claims:
            raise _unauthenticated()
        target = request.raw_path
        with self._budget.use(address) as take:
            body = await read_body(request, bytes_max, take)
            signed = SignedRequest(request.method, target, body or None)
            origin = await _signer(signed, claims)
            if origin is None and body:
                body = await self._bodies.spell(body)
                origin = await _signer(replace(signed, content=body), claims)
            if origin is None:
                raise _unauthenticated()
            self._rates.prove(address, origin)
            self._backoffs.succeeded(origin)
            content = await _read(body, reads) if body else {}
        return PeerRequest(origin, params, parse_query(target), content, body)

    async def _claims(self, request: web.BaseRequest) -> list[_Claim]:
        """Returns what the headers say that could be true: for us, of one other server, by keys
        that it has now. Nothing of the body was read for it."""
        found: list[Credentials] = []
        for header in request.headers.getall("Authorization", [])[:AUTHORIZATION_HEADERS_MAX]:
            try:
                credentials = parse_authorization(header)
            except BadAuthorization:
                continue
            if credentials.destination in (None, self._name) and credentials.origin != self._name:
                found.append(credentials)
        self._rates.check({one.origin for one in found[:1]})
        claims: list[_Claim] = []
        is_delayed = False
        for one in found:
            if one.origin != found[0].origin:
                continue
            try:
                key = await self._keyring.request_key(one.origin, one.key_id)
            except KeyDelayed:
                is_delayed = True
                continue
            except KeyUnavailable:
                continue
            claims.append(_Claim(one, key))
        if is_delayed and not claims:
            raise _too_much_under_way()
        return claims


async def _signer(signed: SignedRequest, claims: Sequence[_Claim]) -> ServerName | None:
    """Returns the origin of the request; None when no claim holds."""
    if signed.content is None or len(signed.content) <= VERIFIED_AT_ONCE_BYTES_MAX:
        return _verified(signed, claims)
    return await asyncio.to_thread(_verified, signed, claims)


def _verified(signed: SignedRequest, claims: Sequence[_Claim]) -> ServerName | None:
    for claim in claims:
        try:
            verify_request(signed, claim.credentials, claim.key)
        except SignatureInvalid:
            continue
        return claim.credentials.origin
    return None


async def _read(body: bytes, reads: Reads) -> JsonObject:
    if reads is Reads.NOTHING:
        return {}
    if len(body) <= PARSED_AT_ONCE_BYTES_MAX:
        return parse_object(body)
    return await asyncio.to_thread(parse_object, body)


def _too_much_under_way() -> MatrixError:
    """So many keys are being fetched for that address that this one has to wait."""
    return MatrixError(
        429, "M_LIMIT_EXCEEDED", "Too many requests", extra={"retry_after_ms": BUSY_RETRY_AFTER_MS}
    )


def _unauthenticated() -> MatrixError:
    return MatrixError(401, "M_UNAUTHORIZED", "the request isn't authenticated")
