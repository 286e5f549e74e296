"""Endpoints of reports: users tell the operator of events, rooms and users.

Spec: client-server API, "Reporting Content".
"""

from __future__ import annotations

import msgspec

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.admin.reports import Reports


class _EventReport(msgspec.Struct, frozen=True):
    """POST /rooms/{roomId}/report/{eventId}; clients before v1.18 send a `score`, too."""

    reason: str | None = None


class _Report(msgspec.Struct, frozen=True):
    reason: str


class ReportsApi:
    """Handlers over the service `Reports`."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        room = v3("/rooms/{roomId}/report")
        limit = Limit.REPORTS
        return [
            Route("POST", f"{room}/{{eventId}}", self.event, limit=limit, suspended=True),
            Route("POST", room, self.room, limit=limit, suspended=True),
            Route("POST", v3("/users/{userId}/report"), self.user, limit=limit, suspended=True),
        ]

    async def event(self, request: Request) -> JsonObject:
        """POST /rooms/{roomId}/report/{eventId}"""
        reason = (await request.parse(_EventReport)).reason or ""
        params = request.params
        await self._reports.event(
            request.requester.user_id, params["roomId"], params["eventId"], reason
        )
        return {}

    async def room(self, request: Request) -> JsonObject:
        """POST /rooms/{roomId}/report"""
        reason = (await request.parse(_Report)).reason
        await self._reports.room(request.requester.user_id, request.params["roomId"], reason)
        return {}

    async def user(self, request: Request) -> JsonObject:
        """POST /users/{userId}/report"""
        reason = (await request.parse(_Report)).reason
        await self._reports.user(request.requester.user_id, request.params["userId"], reason)
        return {}
