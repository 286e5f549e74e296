"""Endpoints of account data and room tags.

Spec: client-server API, "Client config", "Room tagging".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import InvalidIdentifier, RoomId, UserId, parse_room_id
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Handler, Route, v3
from homeserver.errors import forbidden, invalid_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.account_data.account_data import AccountDataService


class AccountDataApi:
    """Handlers of account data; a user accesses only their own."""

    def __init__(self, account_data: AccountDataService) -> None:
        self._account_data = account_data

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        item = v3("/user/{userId}/account_data/{type}")
        of_room = v3("/user/{userId}/rooms/{roomId}/account_data/{type}")
        tags = v3("/user/{userId}/rooms/{roomId}/tags")
        tag = v3("/user/{userId}/rooms/{roomId}/tags/{tag}")

        def write(method: str, template: str, handler: Handler) -> Route:
            limit = Limit.WRITES
            return Route(method, template, handler, limit=limit, guests=True, suspended=True)

        return [
            Route("GET", item, self.get, guests=True),
            write("PUT", item, self.put),
            Route("GET", of_room, self.get, guests=True),
            write("PUT", of_room, self.put),
            Route("GET", tags, self.tags, guests=True),
            write("PUT", tag, self.put_tag),
            write("DELETE", tag, self.delete_tag),
        ]

    async def get(self, request: Request) -> JsonObject:
        """GET /user/{userId}/[rooms/{roomId}/]account_data/{type}"""
        return await self._account_data.get(_own(request), _room(request), request.params["type"])

    async def put(self, request: Request) -> JsonObject:
        """PUT /user/{userId}/[rooms/{roomId}/]account_data/{type}"""
        user_id, room_id = _own(request), _room(request)
        content = await request.json()
        await self._account_data.put(user_id, room_id, request.params["type"], content)
        return {}

    async def tags(self, request: Request) -> JsonObject:
        """GET /user/{userId}/rooms/{roomId}/tags"""
        return {"tags": await self._account_data.tags(_own(request), RoomId(_room(request)))}

    async def put_tag(self, request: Request) -> JsonObject:
        """PUT /user/{userId}/rooms/{roomId}/tags/{tag}"""
        user_id, room_id = _own(request), RoomId(_room(request))
        content = await request.json_or_empty()
        await self._account_data.put_tag(user_id, room_id, request.params["tag"], content)
        return {}

    async def delete_tag(self, request: Request) -> JsonObject:
        """DELETE /user/{userId}/rooms/{roomId}/tags/{tag}"""
        user_id, room_id = _own(request), RoomId(_room(request))
        await self._account_data.delete_tag(user_id, room_id, request.params["tag"])
        return {}


def _own(request: Request) -> UserId:
    user_id = request.requester.user_id
    if request.params["userId"] != user_id:
        raise forbidden("The account data of other users can't be reached")
    return user_id


def _room(request: Request) -> RoomId | str:
    text = request.params.get("roomId")
    if text is None:
        return ""
    try:
        return parse_room_id(text)
    except InvalidIdentifier as error:
        raise invalid_param(str(error)) from error
