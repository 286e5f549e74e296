"""Endpoints of stored filters.

Spec: client-server API, "Filtering".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.errors import forbidden
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.sync.filters import Filters


class FiltersApi:
    """Handlers of filters; a user accesses only their own."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        every, one = v3("/user/{userId}/filter"), v3("/user/{userId}/filter/{filterId}")
        return [
            Route("POST", every, self.create, limit=Limit.WRITES, guests=True, suspended=True),
            Route("GET", one, self.get, guests=True),
        ]

    async def create(self, request: Request) -> JsonObject:
        """POST /user/{userId}/filter"""
        user_id = _own(request)
        return {"filter_id": await self._filters.create(user_id, await request.json())}

    async def get(self, request: Request) -> JsonObject:
        """GET /user/{userId}/filter/{filterId}"""
        return await self._filters.get(_own(request), request.params["filterId"])


def _own(request: Request) -> UserId:
    user_id = request.requester.user_id
    if request.params["userId"] != user_id:
        raise forbidden("The filters of other users can't be reached")
    return user_id
