"""The endpoint that lists notifications.

Spec: client-server API, "Push Notifications: Listing Notifications".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.push.notifications import Notifications


class NotificationsApi:
    """The handler."""

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [Route("GET", v3("/notifications"), self.page, limit=Limit.READS)]

    async def page(self, request: Request) -> JsonObject:
        """GET /notifications"""
        limit = request.query.integer(
            "limit",
            limits.NOTIFICATIONS_PER_PAGE_DEFAULT,
            least=1,
            most=limits.NOTIFICATIONS_PER_PAGE,
        )
        return await self._notifications.page(
            request.requester,
            start=request.query.get("from"),
            limit=limit,
            only=request.query.get("only"),
        )
