"""The endpoint by which an application service asks to be pinged.

Spec: application service API, "Pinging".
"""

from __future__ import annotations

import msgspec

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v1
from homeserver.errors import forbidden
from homeserver.services.appservices.pings import AppServicePings


class _Ping(msgspec.Struct, frozen=True):
    transaction_id: str | None = None


class PingsApi:
    """Handler of pings."""

    def __init__(self, pings: AppServicePings) -> None:
        self._pings = pings

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [Route("POST", v1("/appservice/{appserviceId}/ping"), self.ping)]

    async def ping(self, request: Request) -> JsonObject:
        """POST /appservice/{appserviceId}/ping"""
        service = request.requester.appservice
        if service is None or service.service_id != request.params["appserviceId"]:
            raise forbidden("The access token isn't this application service's")
        body = await request.parse(_Ping)
        return {"duration_ms": await self._pings.ping(service, body.transaction_id)}
