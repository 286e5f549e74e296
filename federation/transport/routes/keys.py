"""Endpoints that publish keys: our own, and others' as a key server (notary).

Rules:
1. They need no signature (a server asks for keys before it can prove anything).
2. A query asks for a bounded number of servers; ones that can't be reached are left out.
3. Documents are sent as canonical JSON, since some servers verify the received bytes.

Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName, is_reachable_name
from federation.limits import (
    INTEGER_DIGITS_MAX,
    NOTARY_REQUEST_BYTES_MAX,
    NOTARY_SERVERS_PER_REQUEST_MAX,
)
from federation.transport.requests.keyring import Keyring
from federation.transport.routes.authentication import parse_query
from federation.transport.routes.bodies import parse_object, read_body
from federation.transport.routes.endpoints import Endpoints, Route
from federation.transport.routes.notary import Criteria, Notary

_QUERY = "/_matrix/key/v2/query"


class KeyRoutes:
    """The handlers."""

    def __init__(self, keyring: Keyring, notary: Notary) -> None:
        self._keyring, self._notary = keyring, notary

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Returns method, path template and handler of each endpoint."""
        return [
            ("GET", "/_matrix/key/v2/server", endpoints.public("keys", self.own)),
            # the key ID in the path is deprecated, and ignored as the spec asks
            ("GET", "/_matrix/key/v2/server/{keyId}", endpoints.public("keys", self.own)),
            ("GET", f"{_QUERY}/{{serverName}}", endpoints.public("keys_query", self.query_one)),
            ("POST", _QUERY, endpoints.public("keys_query", self.query_many)),
        ]

    async def own(self, request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
        """GET /server."""
        return _response(self._keyring.own_document())

    async def query_one(self, request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
        """GET /query/{serverName}."""
        until = dict(parse_query(request.raw_path)).get("minimum_valid_until_ts", "")
        until_ms = int(until) if until.isdecimal() and len(until) <= INTEGER_DIGITS_MAX else 0
        return await self._answer(
            {_server(params["serverName"]): Criteria(valid_until_ms=until_ms)}
        )

    async def query_many(self, request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
        """POST /query."""
        body = parse_object(await read_body(request, NOTARY_REQUEST_BYTES_MAX))
        asked = body.get("server_keys")
        if not isinstance(asked, dict):
            raise MatrixError(400, "M_BAD_JSON", "server_keys is not an object")
        if len(asked) > NOTARY_SERVERS_PER_REQUEST_MAX:
            raise MatrixError(400, "M_INVALID_PARAM", "too many servers")
        return await self._answer(
            {_server(name): _criteria(criteria) for name, criteria in asked.items()}
        )

    async def _answer(self, asked: Mapping[ServerName, Criteria]) -> web.Response:
        return _response({"server_keys": await self._notary.documents(asked)})


def _criteria(value: object) -> Criteria:
    """Returns the criteria for one server; malformed parts count as absent."""
    wanted = value if isinstance(value, dict) else {}
    times = [
        until
        for one in wanted.values()
        if isinstance(one, dict)
        and isinstance(until := one.get("minimum_valid_until_ts"), int)
        and not isinstance(until, bool)
    ]
    return Criteria(frozenset(KeyId(key_id) for key_id in wanted), max(times, default=0))


def _response(value: JsonObject) -> web.Response:
    return web.Response(body=canonical_json.encode(value), content_type="application/json")


def _server(text: str) -> ServerName:
    if not is_reachable_name(text):
        raise MatrixError(400, "M_INVALID_PARAM", "not a server name")
    return ServerName(text)
