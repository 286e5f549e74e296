"""The endpoint that finds the event of a room which is nearest to a time.

Spec: client-server API, GET /timestamp_to_event.
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v1
from homeserver.errors import invalid_param, missing_param
from homeserver.services.timeline.event_times import EventTimes


class EventTimesApi:
    """The handler."""

    def __init__(self, times: EventTimes) -> None:
        self._times = times

    def routes(self) -> list[Route]:
        """Returns the routes of this module."""
        path = v1("/rooms/{roomId}/timestamp_to_event")
        return [Route("GET", path, self.timestamp_to_event)]

    async def timestamp_to_event(self, request: Request) -> JsonObject:
        """GET /rooms/{roomId}/timestamp_to_event"""
        query = request.query
        direction, time_ms = query.get("dir"), query.time_ms("ts")
        if direction is None or time_ms is None:
            raise missing_param("dir and ts are needed")
        if direction not in ("b", "f"):
            raise invalid_param("dir must be b or f")
        found = await self._times.nearest(
            request.requester,
            RoomId(request.params["roomId"]),
            time_ms,
            backwards=direction == "b",
        )
        return {"event_id": found.event_id, "origin_server_ts": found.sent_ms}
