"""Endpoints of pushers.

Spec: client-server API, "Push Notifications".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.push.pushers import parse_request
from homeserver.services.push.pushers import Pushers


class PushersApi:
    """Handlers of pushers."""

    def __init__(self, pushers: Pushers) -> None:
        self._pushers = pushers

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [
            Route("GET", v3("/pushers"), self.all),
            Route("POST", v3("/pushers/set"), self.set, limit=Limit.WRITES),
        ]

    async def all(self, request: Request) -> JsonObject:
        """GET /pushers"""
        return await self._pushers.all_of(request.requester.user_id)

    async def set(self, request: Request) -> JsonObject:
        """POST /pushers/set"""
        return await self._pushers.set(request.requester, parse_request(await request.json()))
