"""Endpoints of OpenID tokens: made by clients, and looked at by other services.

Spec: client-server API, "OpenID"; server-server API, "OpenID".
"""

from __future__ import annotations

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.sessions.openid import OpenId


class OpenIdApi:
    """Handlers over the service `OpenId`. Services that look at a token aren't servers, and sign no
    requests: the token is the proof."""

    def __init__(self, openid: OpenId) -> None:
        self._openid = openid

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        make, look = (
            v3("/user/{userId}/openid/request_token"),
            "/_matrix/federation/v1/openid/userinfo",
        )
        return [
            Route("POST", make, self.request_token, limit=Limit.WRITES),
            Route("GET", look, self.user_info, Auth.NONE, Limit.READS),
        ]

    async def request_token(self, request: Request) -> JsonObject:
        """POST /user/{userId}/openid/request_token"""
        await request.json_or_empty()
        return await self._openid.make(request.requester, request.params["userId"])

    async def user_info(self, request: Request) -> JsonObject:
        """GET /_matrix/federation/v1/openid/userinfo"""
        token = request.query.get("access_token")
        if token is None:
            raise MatrixError(401, "M_MISSING_TOKEN", "Missing parameter: access_token")
        return {"sub": await self._openid.holder(token)}
