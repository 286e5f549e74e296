"""Reading and authenticating a request of another server.

Rules:
1. The body is read up to a limit and within a time; the signature covers it as canonical JSON.
2. `destination`, when given, must be us; the origin must be another server than us; the key must be
   valid now. Several X-Matrix headers may be given: one valid one is enough, a few are tried.
3. The other side learns that the request isn't authenticated, not which check failed.

Spec: server-server API, "Request authentication".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aiohttp import web

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.events.signing import SignatureInvalid
from federation.limits import AUTHORIZATION_HEADERS_MAX, BODY_READ_S_MAX
from federation.ports import Refused
from federation.transport.backoff import Backoffs
from federation.transport.client import encode_content
from federation.transport.keyring import Keyring, KeyUnavailable
from federation.transport.x_matrix import (
    BadAuthorization,
    SignedRequest,
    parse_authorization,
    verify_request,
)

_QUERY_FIELDS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """An authenticated request. `params` are the decoded path parts, `query` decoded pairs in
    order, `content` the body (empty where there is none)."""

    origin: ServerName
    params: Mapping[str, str]
    query: list[tuple[str, str]]
    content: JsonObject

    def first(self, name: str) -> str | None:
        """The first value of a query field."""
        return next((value for key, value in self.query if key == name), None)

    def required(self, name: str) -> str:
        """As `first`; raises Refused where there is none."""
        value = self.first(name)
        if value is None:
            raise Refused(400, "M_MISSING_PARAM", f"{name} is missing")
        return value

    def every(self, name: str) -> list[str]:
        """All values of a query field."""
        return [value for key, value in self.query if key == name]


async def read_body(request: web.BaseRequest, bytes_max: int) -> bytes:
    """The request's body. Raises Refused: 413 past the limit, 408 when it comes too slowly."""
    if request.content_length is not None and request.content_length > bytes_max:
        raise Refused(413, "M_TOO_LARGE", "the body is too large")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_READ_S_MAX):
            async for part in request.content.iter_any():
                size += len(part)
                if size > bytes_max:
                    raise Refused(413, "M_TOO_LARGE", "the body is too large")
                parts.append(part)
    except TimeoutError:
        raise Refused(408, "M_UNKNOWN", "the body came too slowly") from None
    return b"".join(parts)


def parse_query(target: str) -> list[tuple[str, str]]:
    """The decoded query of a request target, in order."""
    _, _, query = target.partition("?")
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError:
        raise Refused(400, "M_INVALID_PARAM", "too many query fields") from None


def parse_object(body: bytes) -> JsonObject:
    """A JSON object; raises Refused."""
    try:
        value = canonical_json.decode_lenient(body)
    except ValueError:
        raise Refused(400, "M_NOT_JSON", "the body isn't JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "M_BAD_JSON", "the body isn't a JSON object")
    return value


class Authenticator:
    """Finds out who asks."""

    def __init__(self, name: ServerName, keyring: Keyring, backoffs: Backoffs) -> None:
        self._name, self._keyring, self._backoffs = name, keyring, backoffs

    async def authenticate(
        self, request: web.BaseRequest, params: Mapping[str, str], bytes_max: int
    ) -> PeerRequest:
        """The request with its proven origin. Raises Refused (401, 400, 413, 408)."""
        headers = request.headers.getall("Authorization", [])[:AUTHORIZATION_HEADERS_MAX]
        if not headers:
            raise Refused(401, "M_UNAUTHORIZED", "the request isn't signed")
        target = request.raw_path
        content, canonical = {}, None
        body = await read_body(request, bytes_max)
        if body:
            content = parse_object(body)
            canonical = _canonical(content)
        signed = SignedRequest(request.method, target, canonical)
        for header in headers:
            origin = await self._origin(signed, header)
            if origin is not None:
                self._backoffs.succeeded(origin)
                return PeerRequest(origin, params, parse_query(target), content)
        raise Refused(401, "M_UNAUTHORIZED", "the request isn't authenticated")

    async def _origin(self, signed: SignedRequest, header: str) -> ServerName | None:
        try:
            credentials = parse_authorization(header)
            if credentials.destination not in (None, self._name):
                return None
            if credentials.origin == self._name:
                return None
            key = await self._keyring.request_key(credentials.origin, credentials.key_id)
            verify_request(signed, credentials, key)
        except (BadAuthorization, KeyUnavailable, SignatureInvalid):
            return None
        return credentials.origin


def _canonical(content: JsonObject) -> bytes:
    try:
        return encode_content(content)
    except ValueError:
        raise Refused(400, "M_BAD_JSON", "the body can't be signed JSON") from None
