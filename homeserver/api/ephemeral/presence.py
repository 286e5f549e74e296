"""Endpoints of presence.

Spec: client-server API, "Presence".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver import limits
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.errors import forbidden
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.ephemeral.presence import parse_request
from homeserver.services.ephemeral.local_presence import LocalPresence
from homeserver.services.ephemeral.presence_view import PresenceView


class PresenceApi:
    """The handlers of presence."""

    def __init__(self, own: LocalPresence, view: PresenceView) -> None:
        self._own, self._view = own, view

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        template = v3("/presence/{userId}/status")
        return [
            Route("GET", template, self.get),
            Route("PUT", template, self.set, limit=Limit.WRITES),
        ]

    async def get(self, request: Request) -> JsonObject:
        """GET /presence/{userId}/status"""
        user_id = UserId(request.params["userId"])
        return await self._view.status(request.requester.user_id, user_id)

    async def set(self, request: Request) -> JsonObject:
        """PUT /presence/{userId}/status"""
        requester = request.requester
        if request.params["userId"] != requester.user_id:
            raise forbidden("You can't set the presence of another user")
        state, status = parse_request(await request.json())
        is_service = requester.appservice is not None
        await self._own.set(
            requester.user_id,
            requester.device_id,
            state,
            status,
            lasts_s=limits.PRESENCE_SET_BY_SERVICE_S if is_service else limits.PRESENCE_SET_S,
        )
        return {}
