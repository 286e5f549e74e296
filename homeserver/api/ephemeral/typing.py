"""Endpoint of typing notifications.

Spec: client-server API, "Typing notifications".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.errors import forbidden, missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.ephemeral.typing import Typing


class TypingApi:
    """The handler of typing notifications."""

    def __init__(self, typing: Typing) -> None:
        self._typing = typing

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        template = v3("/rooms/{roomId}/typing/{userId}")
        return [Route("PUT", template, self.set, limit=Limit.WRITES, guests=True)]

    async def set(self, request: Request) -> JsonObject:
        """PUT /rooms/{roomId}/typing/{userId}"""
        user_id = request.requester.user_id
        if request.params["userId"] != user_id:
            raise forbidden("You can't type for another user")
        body = await request.json()
        if "typing" not in body:
            raise missing_param("Missing field: typing")
        await self._typing.set(
            user_id,
            RoomId(request.params["roomId"]),
            typing=body["typing"],
            timeout_ms=body.get("timeout"),
        )
        return {}
