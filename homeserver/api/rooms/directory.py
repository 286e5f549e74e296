"""Room aliases and the publication of a room.

Spec: client-server API, "Room aliases", "Published room directory" (list/room only).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from federation.events.canonical_json import JsonObject
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.rooms.directory import Directory, parse_alias, parse_room


class _NewAlias(msgspec.Struct, frozen=True):
    room_id: str


class _Visibility(msgspec.Struct, frozen=True):
    visibility: Literal["public", "private"] = "public"


class DirectoryApi:
    """Handlers over the service `Directory`."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""
        alias, listed = v3("/directory/room/{roomAlias}"), v3("/directory/list/room/{roomId}")
        return [
            Route("PUT", alias, self.create, limit=Limit.WRITES),
            Route("GET", alias, self.resolve, Auth.OPTIONAL, Limit.READS),
            Route("DELETE", alias, self.delete, limit=Limit.WRITES),
            Route("GET", v3("/rooms/{roomId}/aliases"), self.aliases),
            Route("GET", listed, self.visibility, auth=Auth.OPTIONAL),
            Route("PUT", listed, self.set_visibility, limit=Limit.WRITES),
        ]

    async def create(self, request: Request) -> JsonObject:
        """Names a room."""
        wanted = await request.parse(_NewAlias)
        await self._directory.create(
            request.requester.user_id,
            parse_alias(request.params["roomAlias"]),
            parse_room(wanted.room_id),
            by=request.requester.appservice,
        )
        return {}

    async def resolve(self, request: Request) -> JsonObject:
        """Returns the room of an alias: {"room_id", "servers"}."""
        target = await self._directory.resolve(parse_alias(request.params["roomAlias"]))
        return {"room_id": target.room_id, "servers": list(target.servers)}

    async def delete(self, request: Request) -> JsonObject:
        """Removes an alias."""
        await self._directory.delete(
            request.requester.user_id,
            parse_alias(request.params["roomAlias"]),
            by=request.requester.appservice,
        )
        return {}

    async def aliases(self, request: Request) -> JsonObject:
        """Returns the aliases of a room on this server: {"aliases"}."""
        room_id = parse_room(request.params["roomId"])
        return {"aliases": await self._directory.aliases(request.requester.user_id, room_id)}

    async def visibility(self, request: Request) -> JsonObject:
        """Returns whether a room is published: {"visibility"}."""
        requester = request.requester_or_none
        published = await self._directory.is_published(
            None if requester is None else requester.user_id,
            parse_room(request.params["roomId"]),
        )
        return {"visibility": "public" if published else "private"}

    async def set_visibility(self, request: Request) -> JsonObject:
        """Publishes or hides a room."""
        wanted = await request.parse(_Visibility)
        await self._directory.set_published(
            request.requester.user_id,
            parse_room(request.params["roomId"]),
            wanted.visibility == "public",
        )
        return {}
