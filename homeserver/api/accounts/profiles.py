"""Endpoints of profiles. Clients that know the unstable feature alone use the paths below
`uk.tcpip.msc4133`.

Spec: client-server API, "Profiles"; MSC4133 for the unstable names.
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.errors import missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.profiles import Profiles, parse_target

_ONE = "/profile/{userId}/{keyName}"


class ProfilesApi:
    """Handlers of profiles."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        routes = [Route("GET", v3("/profile/{userId}"), self.get, Auth.NONE)]
        for one in (v3(_ONE), f"/_matrix/client/unstable/uk.tcpip.msc4133{_ONE}"):
            routes += [
                Route("GET", one, self.get_key, Auth.NONE),
                Route("PUT", one, self.set_key, limit=Limit.WRITES, guests=True),
                Route("DELETE", one, self.remove_key, limit=Limit.WRITES, guests=True),
            ]
        return routes

    async def get(self, request: Request) -> JsonObject:
        """GET /profile/{userId}"""
        return await self._profiles.get(parse_target(request.params["userId"]))

    async def get_key(self, request: Request) -> JsonObject:
        """GET /profile/{userId}/{keyName}"""
        user_id = parse_target(request.params["userId"])
        return await self._profiles.get_key(user_id, request.params["keyName"])

    async def set_key(self, request: Request) -> JsonObject:
        """PUT /profile/{userId}/{keyName}"""
        user_id, key = parse_target(request.params["userId"]), request.params["keyName"]
        body = await request.canonical()
        if key not in body:
            raise missing_param(f"Missing field: {key}")
        await self._profiles.set(request.requester, user_id, key, body[key])
        return {}

    async def remove_key(self, request: Request) -> JsonObject:
        """DELETE /profile/{userId}/{keyName}"""
        user_id = parse_target(request.params["userId"])
        await self._profiles.remove(request.requester, user_id, request.params["keyName"])
        return {}
