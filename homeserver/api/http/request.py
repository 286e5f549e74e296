"""One request as a handler sees it.

The body is read once, on demand, within the route's limit. `json` accepts any JSON object,
`canonical` one that may become part of an event, `parse` one of a known shape. `pieces` are a body
that is never whole in memory.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from federation.events.canonical_json import JsonObject
from homeserver.api.http.body import body_pieces, body_size, read_body
from homeserver.api.http.json_body import check_canonical, parse_object
from homeserver.api.http.query import Query
from homeserver.errors import bad_json, missing_param
from homeserver.services.accounts.requester import Requester

__all__ = ["Query", "Request", "Requester"]

T = TypeVar("T")

_MISSING = re.compile(r"Object missing required field `([^`]*)`")


class Request:
    """A client's request. `params` are the decoded parts of the path; `address` the client's;
    `lapsed_token` a token without a holder, on a route that accepts one."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_query",
        "_requester",
        "address",
        "http",
        "lapsed_token",
        "method",
        "params",
        "raw_query",
    )

    def __init__(
        self,
        http: web.BaseRequest,
        params: Mapping[str, str],
        *,
        raw_query: str,
        address: str,
        requester: Requester | None,
        body_bytes: int,
        lapsed_token: str | None = None,
    ) -> None:
        self.http = http
        self.method = http.method
        self.params = params
        self.raw_query = raw_query
        self.address = address
        self._requester = requester
        self.lapsed_token = lapsed_token
        self._body_bytes = body_bytes
        self._query: Query | None = None
        self._body: bytes | None = None

    @property
    def requester(self) -> Requester:
        """The requester, on a route that requires a token."""
        assert self._requester is not None, "the route asks for no token"
        return self._requester

    @property
    def requester_or_none(self) -> Requester | None:
        """The requester, if a token was sent."""
        return self._requester

    @property
    def query(self) -> Query:
        """The decoded query; 400 M_INVALID_PARAM if it can't be decoded."""
        if self._query is None:
            self._query = Query(self.raw_query)
        return self._query

    @property
    def event_time_ms(self) -> int | None:
        """The `origin_server_ts` that an application service wants for an event (`ts` in the
        query); None for now. 400 M_INVALID_PARAM if it isn't a time. For others it has no meaning.
        Spec: application service API, "Timestamp massaging".
        """
        if self.requester.appservice is None or not self.raw_query:
            return None
        return self.query.time_ms("ts")

    async def body(self) -> bytes:
        """Returns the bytes of the body; 413 M_TOO_LARGE beyond the route's limit."""
        if self._body is None:
            self._body = await read_body(self.http, self._body_bytes)
        return self._body

    @property
    def body_size(self) -> int | None:
        """The size of the body, if it is known before it is read."""
        return body_size(self.http)

    def pieces(self) -> AsyncIterator[bytes]:
        """Returns the body in pieces that are read when they are asked for. They aren't bounded by
        the route's limit: the handler checks their size, and beforehand what it can."""
        return body_pieces(self.http)

    async def json(self) -> JsonObject:
        """Returns the body's JSON object; floats are allowed. 400 M_NOT_JSON or M_BAD_JSON."""
        return parse_object(await self.body())

    async def json_or_empty(self) -> JsonObject:
        """Returns the object as `json` does, and {} for an empty body: the bodies of several
        endpoints are optional.
        """
        body = await self.body()
        return parse_object(body) if body.strip() else {}

    async def canonical(self) -> JsonObject:
        """Returns the body's JSON object without floats and out-of-range integers (event
        content).
        """
        value = await self.json()
        check_canonical(value)
        return value

    async def parse(self, shape: type[T]) -> T:
        """Returns the body as a msgspec.Struct. 400 M_MISSING_PARAM names a missing field,
        M_BAD_JSON one with a wrong type."""
        return convert(await self.json(), shape)


def convert(value: JsonObject, shape: type[T]) -> T:
    """Converts a JSON object to a msgspec.Struct; raises as `Request.parse`."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        if match := _MISSING.match(str(error)):
            raise missing_param(f"Missing field: {match[1]}") from error
        raise bad_json(str(error)) from error
