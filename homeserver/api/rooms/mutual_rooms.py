"""The rooms that two users share, on the stable path and on the one that clients of before v1.19
use.

Spec: client-server API, GET /mutual_rooms; MSC2666.
"""

from __future__ import annotations

import base64
import binascii

from federation.events.canonical_json import JsonObject
from federation.events.ids import InvalidIdentifier, RoomId, parse_room_id
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v1
from homeserver.errors import invalid_param, missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.rooms.user_directory.mutual_rooms import MutualRooms, MutualRoomsPage

_UNSTABLE = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"


class MutualRoomsApi:
    """Handlers of both paths."""

    def __init__(self, mutual_rooms: MutualRooms) -> None:
        self._mutual_rooms = mutual_rooms

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        return [
            Route("GET", v1("/mutual_rooms"), self.page, limit=Limit.READS),
            Route("GET", _UNSTABLE, self.unstable_page, limit=Limit.READS),
        ]

    async def page(self, request: Request) -> JsonObject:
        """GET /mutual_rooms"""
        page = await self._page(request, "from")
        answer: JsonObject = {"joined": page.rooms, "count": page.count}
        if page.last is not None:
            answer["next_batch"] = _format_token(page.last)
        return answer

    async def unstable_page(self, request: Request) -> JsonObject:
        """GET /user/mutual_rooms of MSC2666's draft."""
        page = await self._page(request, "batch_token")
        answer: JsonObject = {"joined": page.rooms}
        if page.last is not None:
            answer["next_batch_token"] = _format_token(page.last)
        return answer

    async def _page(self, request: Request, name: str) -> MutualRoomsPage:
        user_id, token = request.query.get("user_id"), request.query.get(name)
        if user_id is None:
            raise missing_param("user_id is missing")
        after = "" if token is None else _parse_token(name, token)
        return await self._mutual_rooms.page(request.requester.user_id, user_id, after=after)


def _format_token(room_id: RoomId) -> str:
    return base64.urlsafe_b64encode(room_id.encode()).decode().rstrip("=")


def _parse_token(name: str, text: str) -> RoomId:
    try:
        padded = text + "=" * (-len(text) % 4)
        return parse_room_id(base64.b64decode(padded, altchars=b"-_", validate=True).decode())
    except (binascii.Error, ValueError, InvalidIdentifier) as error:
        raise invalid_param(f"{name} is not a token of this server") from error
