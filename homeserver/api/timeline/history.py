"""Reading a room's history: messages, one event, the context of an event.

Spec: client-server API, "Getting events for a room".
"""

from __future__ import annotations

from federation.events.ids import EventId, RoomId
from homeserver import limits
from homeserver.api.http.json_body import parse_object
from homeserver.api.http.query import PageTokens
from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson
from homeserver.api.http.routes import Route, v3
from homeserver.errors import invalid_param, missing_param
from homeserver.rules.sync.filters import EventFilter, parse_event_filter
from homeserver.rules.sync.sync_tokens import Point, SyncToken
from homeserver.services.timeline.history import History, PageRequest


class HistoryApi:
    """Handlers of reads of a room's history."""

    def __init__(self, history: History, tokens: PageTokens) -> None:
        self._history, self._tokens = history, tokens

    def routes(self) -> list[Route]:
        """Returns the routes of this module."""
        return [
            Route("GET", v3("/rooms/{roomId}/messages"), self.messages, guests=True),
            Route("GET", v3("/rooms/{roomId}/event/{eventId}"), self.event, guests=True),
            Route("GET", v3("/rooms/{roomId}/context/{eventId}"), self.context, guests=True),
        ]

    async def messages(self, request: Request) -> RawJson:
        """GET /rooms/{roomId}/messages"""
        query = request.query
        direction = query.get("dir")
        if direction is None:
            raise missing_param("dir is missing")
        if direction not in ("b", "f"):
            raise invalid_param("dir must be b or f")
        asked = PageRequest(
            RoomId(request.params["roomId"]),
            direction == "b",
            self._token("from", query.get("from")),
            self._token("to", query.get("to")),
            query.integer("limit", limits.PAGE_EVENTS_DEFAULT, least=1, most=limits.PAGE_EVENTS),
            _filter(query.get("filter")),
        )
        return RawJson(await self._history.messages(request.requester, asked))

    async def event(self, request: Request) -> RawJson:
        """GET /rooms/{roomId}/event/{eventId}"""
        room_id, event_id = RoomId(request.params["roomId"]), EventId(request.params["eventId"])
        return RawJson(await self._history.event(request.requester, room_id, event_id))

    async def context(self, request: Request) -> RawJson:
        """GET /rooms/{roomId}/context/{eventId}"""
        query = request.query
        found = await self._history.context(
            request.requester,
            RoomId(request.params["roomId"]),
            EventId(request.params["eventId"]),
            limit=query.integer(
                "limit", limits.PAGE_EVENTS_DEFAULT, least=0, most=limits.PAGE_EVENTS
            ),
            wanted=_filter(query.get("filter")),
        )
        return RawJson(found)

    def _token(self, name: str, text: str | None) -> Point | SyncToken | None:
        return self._tokens.parse(name, text) if text else None


def _filter(text: str | None) -> EventFilter:
    if not text:
        return EventFilter()
    if len(text) > limits.FILTER_BYTES:
        raise invalid_param("The filter is too long")
    return parse_event_filter(parse_object(text.encode()))
