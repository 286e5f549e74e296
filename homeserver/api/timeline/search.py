"""The endpoint of the search for messages.

Spec: client-server API, "Server Side Search".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, TypeAlias

import msgspec

from homeserver import limits
from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson
from homeserver.api.http.routes import Route, v3
from homeserver.errors import invalid_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.sync.filters import parse_event_filter
from homeserver.rules.timeline.message_search import KEYS, parse_query
from homeserver.rules.timeline.search_requests import (
    ContextWanted,
    MessageSearchRequest,
    parse_search_token,
)
from homeserver.services.timeline.client_events import json_object
from homeserver.services.timeline.search.search import MessageSearch

_Key: TypeAlias = Literal["content.body", "content.name", "content.topic"]


class _Context(msgspec.Struct, frozen=True):
    before_limit: int = limits.SEARCH_CONTEXT_DEFAULT
    after_limit: int = limits.SEARCH_CONTEXT_DEFAULT
    include_profile: bool = False


class _Group(msgspec.Struct, frozen=True):
    key: Literal["room_id", "sender"]


class _Groupings(msgspec.Struct, frozen=True):
    group_by: tuple[_Group, ...] = ()


class _RoomEvents(msgspec.Struct, frozen=True):
    search_term: str
    keys: tuple[_Key, ...] = ()
    filter: dict[str, Any] = {}
    order_by: Literal["recent", "rank"] = "rank"
    event_context: _Context | None = None
    include_state: bool = False
    groupings: _Groupings = _Groupings()


class _Categories(msgspec.Struct, frozen=True):
    room_events: _RoomEvents | None = None


class _SearchBody(msgspec.Struct, frozen=True):
    search_categories: _Categories


class MessageSearchApi:
    """Handlers of the search."""

    def __init__(self, search: MessageSearch) -> None:
        self._search = search

    def routes(self) -> list[Route]:
        """Returns the routes of this module."""
        return [Route("POST", v3("/search"), self.search, limit=Limit.READS, suspended=True)]

    async def search(self, request: Request) -> RawJson:
        """POST /search"""
        wanted = (await request.parse(_SearchBody)).search_categories.room_events
        parts = []
        if wanted is not None:
            asked = _asked(wanted, request.query.get("next_batch"))
            parts.append(("room_events", await self._search.find(request.requester, asked)))
        return RawJson(json_object([("search_categories", json_object(parts))]))


def _asked(wanted: _RoomEvents, token: str | None) -> MessageSearchRequest:
    """Returns a search. Raises 400 M_INVALID_PARAM for one that is too long, and for a token of
    another kind."""
    if len(wanted.search_term) > limits.SEARCH_TERM_CHARACTERS:
        raise invalid_param(f"search_term has at most {limits.SEARCH_TERM_CHARACTERS} characters")
    if len(wanted.groupings.group_by) > limits.SEARCH_GROUPINGS:
        raise invalid_param(f"group_by has at most {limits.SEARCH_GROUPINGS} keys")
    chosen = parse_event_filter(wanted.filter)
    limit = limits.SEARCH_RESULTS_DEFAULT if chosen.limit is None else chosen.limit
    keys: Collection[str] = wanted.keys or KEYS.values()
    return MessageSearchRequest(
        parse_query(wanted.search_term),
        frozenset(event_type for event_type, key in KEYS.items() if key in keys),
        chosen,
        max(1, min(limit, limits.SEARCH_RESULTS)),
        by_rank=wanted.order_by == "rank",
        context=None if wanted.event_context is None else _context(wanted.event_context),
        include_state=wanted.include_state,
        group_by=tuple(dict.fromkeys(group.key for group in wanted.groupings.group_by)),
        token=parse_search_token(token) if token else None,
    )


def _context(wanted: _Context) -> ContextWanted:
    if wanted.before_limit < 0 or wanted.after_limit < 0:
        raise invalid_param("before_limit and after_limit are at least 0")
    return ContextWanted(
        min(wanted.before_limit, limits.SEARCH_CONTEXT),
        min(wanted.after_limit, limits.SEARCH_CONTEXT),
        wanted.include_profile,
    )
