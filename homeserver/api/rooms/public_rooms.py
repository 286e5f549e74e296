"""The published room directories, of this server and of others: /publicRooms.

Spec: client-server API, "Published room directory".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from federation.events.canonical_json import JsonObject
from federation.events.ids import InvalidIdentifier, ServerName, parse_server_name
from federation.listing_ports import DirectoryQuestion
from homeserver import limits
from homeserver.api.http.request import Request, convert
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.errors import invalid_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.rooms.public_rooms import Search
from homeserver.services.rooms.public_rooms import Networks, PublicRooms, parse_start
from homeserver.services.rooms.summaries.remote_directories import RemoteDirectories


class _Asked(msgspec.Struct, frozen=True):
    limit: int | None = None
    since: str | None = None
    filter: Search | None = None
    include_all_networks: bool | None = None
    third_party_instance_id: str | None = None


class PublicRoomsApi:
    """Handlers over the services `PublicRooms` and `RemoteDirectories`."""

    def __init__(
        self, rooms: PublicRooms, directories: RemoteDirectories, server_name: ServerName
    ) -> None:
        self._rooms, self._directories, self._server_name = rooms, directories, server_name

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""
        path = v3("/publicRooms")
        return [
            Route("GET", path, self.all, Auth.OPTIONAL, Limit.READS, guests=True),
            Route("POST", path, self.search, limit=Limit.READS, guests=True, suspended=True),
        ]

    async def all(self, request: Request) -> JsonObject:
        """GET /publicRooms"""
        query = request.query
        most = limits.PUBLISHED_ROOMS_PER_PAGE
        limit = query.integer("limit", most, least=0, most=most)
        return await self._page(request, DirectoryQuestion(limit, query.get("since") or None))

    async def search(self, request: Request) -> JsonObject:
        """POST /publicRooms"""
        asked = convert(await request.json_or_empty(), _Asked)
        if asked.limit is not None and asked.limit < 0:
            raise invalid_param("limit must be at least 0")
        chosen = asked.filter or Search()
        question = DirectoryQuestion(
            asked.limit or 0,
            asked.since or None,
            asked.third_party_instance_id or None,
            bool(asked.include_all_networks),
            chosen.generic_search_term,
            chosen.room_types,
        )
        return await self._page(request, question)

    async def _page(self, request: Request, question: DirectoryQuestion) -> JsonObject:
        most = limits.PUBLISHED_ROOMS_PER_PAGE
        question = replace(question, limit=min(question.limit or most, most))
        server = request.query.get("server")
        if server and server != self._server_name:
            has_token = request.requester_or_none is not None
            name = _parse_server(server)
            return await self._directories.page(name, question, has_token=has_token)
        return await self._rooms.page(
            Search(question.search_term, question.room_types),
            start=parse_start(question.since),
            limit=question.limit,
            networks=Networks(question.instance_id, question.all_networks),
        )


def _parse_server(text: str) -> ServerName:
    try:
        return parse_server_name(text)
    except InvalidIdentifier as error:
        raise invalid_param("server is not a server name") from error
