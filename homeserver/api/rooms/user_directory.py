"""The endpoint of the user directory.

Spec: client-server API, "User directory".
"""

from __future__ import annotations

import msgspec

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.rooms.user_directory.search import UserSearch


class _SearchBody(msgspec.Struct, frozen=True):
    search_term: str
    limit: int | None = None


class UserDirectoryApi:
    """Handlers of the user directory."""

    def __init__(self, search: UserSearch) -> None:
        self._search = search

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        path = v3("/user_directory/search")
        return [Route("POST", path, self.search, limit=Limit.READS, suspended=True)]

    async def search(self, request: Request) -> JsonObject:
        """POST /user_directory/search"""
        body = await request.parse(_SearchBody)
        return await self._search.find(request.requester.user_id, body.search_term, body.limit)
