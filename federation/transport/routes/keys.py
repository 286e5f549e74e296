"""Endpoints that publish keys: our own, and others' as a key server (notary).

Rules:
1. They need no signature (a server asks for keys before it can prove anything).
2. A query asks for a bounded number of servers; ones that can't be reached are left out.

Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from federation.events.canonical_json import JsonObject
from federation.events.ids import InvalidIdentifier, ServerName, parse_server_name
from federation.limits import NOTARY_REQUEST_BYTES_MAX, NOTARY_SERVERS_PER_REQUEST_MAX
from federation.ports import Clock, Refused
from federation.transport.keyring import Keyring
from federation.transport.routes.authentication import parse_query
from federation.transport.routes.bodies import parse_object, read_body
from federation.transport.routes.endpoints import Endpoints, Route, json_response

_QUERY = "/_matrix/key/v2/query"


class KeyRoutes:
    """The handlers."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._keyring, self._clock = keyring, clock

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Method, path template and handler of each endpoint."""
        return [
            ("GET", "/_matrix/key/v2/server", endpoints.public("keys", self.own)),
            # the key ID in the path is deprecated, and ignored as the spec asks
            ("GET", "/_matrix/key/v2/server/{keyId}", endpoints.public("keys", self.own)),
            ("GET", f"{_QUERY}/{{serverName}}", endpoints.public("keys_query", self.query_one)),
            ("POST", _QUERY, endpoints.public("keys_query", self.query_many)),
        ]

    async def own(self, request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
        """GET /server."""
        return json_response(self._keyring.own_document())

    async def query_one(self, request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
        """GET /query/{serverName}."""
        query = dict(parse_query(request.raw_path))
        until = query.get("minimum_valid_until_ts", "")
        until_ms = int(until) if until.isdecimal() and len(until) < 17 else self._clock.now_ms()
        return await self._answer({_server(params["serverName"]): until_ms})

    async def query_many(self, request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
        """POST /query."""
        body = parse_object(await read_body(request, NOTARY_REQUEST_BYTES_MAX))
        asked = body.get("server_keys")
        if not isinstance(asked, dict):
            raise Refused(400, "M_BAD_JSON", "server_keys is no object")
        if len(asked) > NOTARY_SERVERS_PER_REQUEST_MAX:
            raise Refused(400, "M_INVALID_PARAM", "too many servers")
        return await self._answer(
            {_server(name): self._minimum_ms(criteria) for name, criteria in asked.items()}
        )

    def _minimum_ms(self, criteria: object) -> int:
        """The latest of the times until which keys are wanted."""
        wanted = [self._clock.now_ms()]
        for one in criteria.values() if isinstance(criteria, dict) else ():
            until = one.get("minimum_valid_until_ts") if isinstance(one, dict) else None
            if isinstance(until, int):
                wanted.append(until)
        return max(wanted)

    async def _answer(self, asked: Mapping[ServerName, int]) -> web.Response:
        found: list[JsonObject | None] = await asyncio.gather(
            *(self._keyring.notarised(server, until_ms) for server, until_ms in asked.items())
        )
        return json_response({"server_keys": [one for one in found if one is not None]})


def _server(text: str) -> ServerName:
    try:
        return parse_server_name(text)
    except InvalidIdentifier:
        raise Refused(400, "M_INVALID_PARAM", "not a server name") from None
