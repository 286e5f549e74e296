"""Endpoints of receipts and read markers.

Spec: client-server API, "Receipts", "Read and unread markers".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.ephemeral.receipts import Receipts


class ReceiptsApi:
    """Handlers of receipts."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        one = v3("/rooms/{roomId}/receipt/{receiptType}/{eventId}")
        markers = v3("/rooms/{roomId}/read_markers")
        return [
            Route("POST", one, self.send, limit=Limit.WRITES, guests=True, suspended=True),
            Route(
                "POST", markers, self.set_markers, limit=Limit.WRITES, guests=True, suspended=True
            ),
        ]

    async def send(self, request: Request) -> JsonObject:
        """POST /rooms/{roomId}/receipt/{receiptType}/{eventId}"""
        body = await request.json_or_empty()
        await self._receipts.send(
            request.requester.user_id,
            RoomId(request.params["roomId"]),
            request.params["receiptType"],
            request.params["eventId"],
            thread=body.get("thread_id"),
        )
        return {}

    async def set_markers(self, request: Request) -> JsonObject:
        """POST /rooms/{roomId}/read_markers"""
        markers = await request.json_or_empty()
        room_id = RoomId(request.params["roomId"])
        await self._receipts.set_markers(request.requester.user_id, room_id, markers)
        return {}
