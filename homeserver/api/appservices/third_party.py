"""Endpoints of look-ups in third-party networks.

Spec: client-server API, "Third-party Networks".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson, to_json
from homeserver.api.http.routes import Route, v3
from homeserver.errors import missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.appservices.third_party import ThirdParties

_OURS = frozenset({"access_token", "user_id", "device_id", "org.matrix.msc3202.device_id"})
"""Parameters that are meant for this server."""


class ThirdPartyApi:
    """Handlers of look-ups."""

    def __init__(self, parties: ThirdParties) -> None:
        self._parties = parties

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        limit = Limit.READS
        return [
            Route("GET", v3("/thirdparty/protocols"), self.protocols, limit=limit, guests=True),
            Route("GET", v3("/thirdparty/protocol/{protocol}"), self.protocol, limit=limit),
            Route("GET", v3("/thirdparty/user/{protocol}"), self.users, limit=limit),
            Route("GET", v3("/thirdparty/location/{protocol}"), self.locations, limit=limit),
            Route("GET", v3("/thirdparty/user"), self.users_of, limit=limit),
            Route("GET", v3("/thirdparty/location"), self.locations_of, limit=limit),
        ]

    async def protocols(self, _request: Request) -> JsonObject:
        """GET /thirdparty/protocols"""
        return await self._parties.protocols()

    async def protocol(self, request: Request) -> JsonObject:
        """GET /thirdparty/protocol/{protocol}"""
        return await self._parties.protocol(request.params["protocol"])

    async def users(self, request: Request) -> RawJson:
        """GET /thirdparty/user/{protocol}"""
        found = await self._parties.users(request.params["protocol"], _fields(request))
        return RawJson(to_json(found))

    async def locations(self, request: Request) -> RawJson:
        """GET /thirdparty/location/{protocol}"""
        found = await self._parties.locations(request.params["protocol"], _fields(request))
        return RawJson(to_json(found))

    async def users_of(self, request: Request) -> RawJson:
        """GET /thirdparty/user"""
        return RawJson(to_json(await self._parties.users_of(_required(request, "userid"))))

    async def locations_of(self, request: Request) -> RawJson:
        """GET /thirdparty/location"""
        return RawJson(to_json(await self._parties.locations_of(_required(request, "alias"))))


def _fields(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.query.pairs() if name not in _OURS}


def _required(request: Request, name: str) -> str:
    value = request.query.get(name)
    if value is None:
        raise missing_param(f"Missing parameter: {name}")
    return value
