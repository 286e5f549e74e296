"""Sending message events and redactions: /rooms/{roomId}/send and /redact.

Spec: client-server API, "Sending events to a room", "Redactions".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.timeline.timeline import SendRequest, Timeline


class TimelineApi:
    """Handlers over the service `Timeline`."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""
        return [
            Route(
                "PUT",
                v3("/rooms/{roomId}/send/{eventType}/{txnId}"),
                self.send,
                limit=Limit.MESSAGES,
                guests=True,
            ),
            Route(
                "PUT",
                v3("/rooms/{roomId}/redact/{eventId}/{txnId}"),
                self.redact,
                limit=Limit.MESSAGES,
                suspended=True,
            ),
        ]

    async def send(self, request: Request) -> JsonObject:
        """Sends a message event; {"event_id"}."""
        asked = _asked(request, request.params["eventType"], await request.canonical())
        asked = replace(asked, time_ms=request.event_time_ms)
        return {"event_id": await self._timeline.send(asked)}

    async def redact(self, request: Request) -> JsonObject:
        """Redacts an event, a suspended user's own alone; {"event_id"} of the redaction."""
        asked = _asked(request, event_types.REDACTION, await request.canonical())
        asked.content.pop("redacts", None)
        return {"event_id": await self._timeline.redact(asked, request.params["eventId"])}


def _asked(request: Request, event_type: str, content: JsonObject) -> SendRequest:
    requester, params = request.requester, request.params
    return SendRequest(
        requester.user_id,
        requester.device_id,
        RoomId(params["roomId"]),
        event_type,
        content,
        params["txnId"],
        is_suspended=requester.is_suspended,
    )
