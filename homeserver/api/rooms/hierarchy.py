"""The rooms of a space: /hierarchy.

Spec: client-server API, "Spaces", `GET /rooms/{roomId}/hierarchy`.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v1
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.rooms.directory import parse_room
from homeserver.services.rooms.summaries.hierarchy import Hierarchy
from homeserver.services.rooms.summaries.walks import Walk


class HierarchyApi:
    """The handler over the service `Hierarchy`."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""
        path = v1("/rooms/{roomId}/hierarchy")
        return [Route("GET", path, self.page, limit=Limit.READS)]

    async def page(self, request: Request) -> JsonObject:
        """GET /rooms/{roomId}/hierarchy"""
        query = request.query
        limit = query.integer(
            "limit",
            limits.HIERARCHY_ROOMS_PER_PAGE_DEFAULT,
            least=1,
            most=limits.HIERARCHY_ROOMS_PER_PAGE,
        )
        most = limits.HIERARCHY_DEPTH
        walk = Walk(
            request.requester.user_id,
            parse_room(request.params["roomId"]),
            bool(query.flag("suggested_only")),
            query.integer("max_depth", most, least=0, most=most),
        )
        token = query.get("from")
        if token:
            given = {name for name in ("suggested_only", "max_depth") if query.get(name)}
            page = await self._hierarchy.next_page(token, walk, limit, given=frozenset(given))
        else:
            page = await self._hierarchy.first_page(walk, limit)
        answer: JsonObject = {"rooms": list(page.rooms)}
        if page.next_batch is not None:
            answer["next_batch"] = page.next_batch
        return answer
