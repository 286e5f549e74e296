"""The published room directory: /publicRooms.

Spec: client-server API, "Published room directory".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from homeserver import limits
from homeserver.api.http.request import Request, convert
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.errors import invalid_param, not_found
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.rooms.public_rooms import Search
from homeserver.services.rooms.public_rooms import OWN, Networks, PublicRooms


class _Asked(msgspec.Struct, frozen=True):
    limit: int | None = None
    since: str | None = None
    filter: Search | None = None
    include_all_networks: bool | None = None
    third_party_instance_id: str | None = None


class PublicRoomsApi:
    """Handlers over the service `PublicRooms`."""

    def __init__(self, rooms: PublicRooms, server_name: ServerName) -> None:
        self._rooms, self._server_name = rooms, server_name

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""
        path = v3("/publicRooms")
        return [
            Route("GET", path, self.all, Auth.NONE, Limit.READS),
            Route("POST", path, self.search, limit=Limit.READS, guests=True, suspended=True),
        ]

    async def all(self, request: Request) -> JsonObject:
        """GET /publicRooms"""
        query = request.query
        most = limits.PUBLISHED_ROOMS_PER_PAGE
        limit = query.integer("limit", most, least=0, most=most)
        return await self._page(request, Search(), limit, query.get("since"))

    async def search(self, request: Request) -> JsonObject:
        """POST /publicRooms"""
        asked = convert(await request.json_or_empty(), _Asked)
        if asked.limit is not None and asked.limit < 0:
            raise invalid_param("limit must be at least 0")
        networks = Networks(asked.third_party_instance_id, bool(asked.include_all_networks))
        search = asked.filter or Search()
        return await self._page(request, search, asked.limit, asked.since, networks)

    async def _page(
        self,
        request: Request,
        search: Search,
        limit: int | None,
        since: str | None,
        networks: Networks = OWN,
    ) -> JsonObject:
        if request.query.get("server") not in (None, "", self._server_name):
            raise not_found("The directories of other servers can't be asked from here")
        if since and not (
            since.isascii()
            and since.isdigit()
            and len(since) <= limits.PUBLISHED_ROOMS_TOKEN_DIGITS
        ):
            raise invalid_param("since is not a token of this directory")
        most = limits.PUBLISHED_ROOMS_PER_PAGE
        page = most if not limit else min(limit, most)
        return await self._rooms.page(search, start=int(since or 0), limit=page, networks=networks)
