"""Events that relate to others: /relations and /threads.

Spec: client-server API, "Relationships API", "Querying threads in a room".
"""

from __future__ import annotations

from federation.events.ids import EventId, RoomId
from homeserver import limits
from homeserver.api.http.query import PageTokens
from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson
from homeserver.api.http.routes import Route, v1
from homeserver.errors import invalid_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.sync.sync_tokens import Point, SyncToken
from homeserver.services.timeline.relations import Relations, RelationsRequest
from homeserver.services.timeline.threads import Threads, ThreadsRequest

_RELATIONS = "/rooms/{roomId}/relations/{eventId}"
_RECURSE = "org.matrix.msc3981.recurse"
""""recurse" under the name from before v1.10, which clients use for its unstable feature."""


class RelationsApi:
    """Handlers of reads of related events."""

    def __init__(self, relations: Relations, threads: Threads, tokens: PageTokens) -> None:
        self._relations, self._threads, self._tokens = relations, threads, tokens

    def routes(self) -> list[Route]:
        """Returns the routes of this module."""
        return [
            Route("GET", v1(_RELATIONS), self.children, limit=Limit.READS),
            Route("GET", v1(_RELATIONS + "/{relType}"), self.children, limit=Limit.READS),
            Route(
                "GET", v1(_RELATIONS + "/{relType}/{eventType}"), self.children, limit=Limit.READS
            ),
            Route("GET", v1("/rooms/{roomId}/threads"), self.threads, limit=Limit.READS),
        ]

    async def children(self, request: Request) -> RawJson:
        """GET /rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]]"""
        query, params = request.query, request.params
        direction = query.get("dir")
        if direction not in (None, "b", "f"):
            raise invalid_param("dir must be b or f")
        asked = RelationsRequest(
            RoomId(params["roomId"]),
            EventId(params["eventId"]),
            params.get("relType"),
            params.get("eventType"),
            self._token("from", query.get("from")),
            self._token("to", query.get("to")),
            query.integer("limit", limits.PAGE_EVENTS_DEFAULT, least=1, most=limits.PAGE_EVENTS),
            direction != "f",
            query.flag("recurse" if query.get("recurse") is not None else _RECURSE),
        )
        return RawJson(await self._relations.children(request.requester, asked))

    async def threads(self, request: Request) -> RawJson:
        """GET /rooms/{roomId}/threads"""
        query = request.query
        include = query.get("include")
        if include not in (None, "all", "participated"):
            raise invalid_param("include must be all or participated")
        asked = ThreadsRequest(
            RoomId(request.params["roomId"]),
            include == "participated",
            query.integer("limit", limits.PAGE_EVENTS_DEFAULT, least=1, most=limits.THREADS_LISTED),
            self._token("from", query.get("from")),
        )
        return RawJson(await self._threads.page(request.requester, asked))

    def _token(self, name: str, text: str | None) -> Point | SyncToken | None:
        return self._tokens.parse(name, text) if text else None
