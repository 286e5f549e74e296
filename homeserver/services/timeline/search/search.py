"""Searches for messages in the rooms that a user is or was in.

Rules:
1. The index is brought up to date first. What it finds are candidates: each is then read, and is a
   result if its reader may see it, and the text that they see fits.
2. Rooms that are encrypted now are left out, also their messages from before.
3. The order is that of sending, as far as the clock of its server is to be believed: an event isn't
   newer than its coming here. By rank only the newest `SEARCH_RANKED` are ordered.
4. A request looks at a bounded number of candidates. If that wasn't enough, it answers with what it
   has, and a token.

Spec: client-server API, "Server Side Search".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from federation.events import event_types
from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.engine.followers.memberships import Memberships, UserRoom
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.errors import unavailable
from homeserver.rules.timeline.message_search import rank, searched_text
from homeserver.rules.timeline.search_requests import (
    ROOM_ID,
    SENDER,
    MessageSearchRequest,
    SearchPlace,
    SearchToken,
)
from homeserver.services.accounts.requester import Requester
from homeserver.services.timeline.client_events import Seen, allows
from homeserver.services.timeline.search.index import MessageIndex
from homeserver.services.timeline.search.results import Hit, SearchPage, SearchResults
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage.database import Database
from homeserver.storage.timeline.search import FoundRow, SearchScope, SearchTable

_BEEN_IN = ("join", "leave", "ban")


class _Collected(msgspec.Struct, frozen=True):
    """Results, newest first; `end`: below it there may be more."""

    hits: Sequence[Hit]
    end: SearchPlace | None


class MessageSearch:
    """Answers searches."""

    def __init__(
        self,
        database: Database,
        index: MessageIndex,
        visibility: Visibility,
        rooms: Rooms,
        reader: Reader,
        *,
        memberships: Memberships,
        results: SearchResults,
    ) -> None:
        self._table, self._index, self._visibility = SearchTable(database), index, visibility
        self._rooms, self._reader, self._memberships = rooms, reader, memberships
        self._results = results
        self._places = asyncio.Semaphore(limits.SEARCHES_AT_ONCE)

    async def find(self, requester: Requester, request: MessageSearchRequest) -> bytes:
        """Returns the JSON of `room_events`. Raises 503 if the search takes too long."""
        try:
            async with asyncio.timeout(limits.SEARCH_S), self._places:
                page = await self._page(requester.user_id, request)
                return await self._results.render(requester, request, page)
        except TimeoutError as error:
            raise unavailable("The search takes too long: name rooms, or further words") from error

    async def _page(self, user_id: UserId, request: MessageSearchRequest) -> SearchPage:
        own = await self._memberships.of(user_id)
        scope = _scope(own, request)
        if request.query.is_empty or not scope.rooms or not scope.types:
            return SearchPage((), 0, None)
        await self._index.settle()
        below = None if request.token is None else request.token.below
        most = limits.SEARCH_RANKED if request.by_rank else request.limit + 1
        found = await self._collect(user_id, request, scope, below, most)
        if request.by_rank:
            return _ranked(request, found.hits, is_all=found.end is None)
        hits, end = found.hits[: request.limit], found.end
        if len(found.hits) > request.limit:
            end = hits[-1].place
        token = None if end is None else SearchToken(end)
        return SearchPage(hits, len(found.hits), token)

    async def _collect(
        self,
        user_id: UserId,
        request: MessageSearchRequest,
        scope: SearchScope,
        below: SearchPlace | None,
        most: int,
    ) -> _Collected:
        """Returns the newest results below a place, at most `most`."""
        hits: list[Hit] = []
        looked = 0
        while len(hits) < most and looked < limits.SEARCH_CANDIDATES_MAX:
            limit = min(most, limits.SEARCH_CANDIDATES)
            rows = await self._table.find(request.query, scope, before=below, limit=limit)
            hits += await self._seen(user_id, request, rows)
            looked += len(rows)
            if len(rows) < limit:
                return _Collected(hits[:most], None)
            below = rows[-1].place
        return _Collected(hits[:most], below)

    async def _seen(
        self, user_id: UserId, request: MessageSearchRequest, rows: Sequence[FoundRow]
    ) -> list[Hit]:
        """Returns those of the candidates that are results, in their order."""
        own = await self._memberships.of(user_id)
        rooms = await self._rooms.get_many({row.room_id for row in rows})
        seen: dict[str, tuple[Room, Seen]] = {}
        for room_id, room in rooms.items():
            if event_types.ENCRYPTION_KEY in room.view.state:
                continue
            ids = [row.event_id for row in rows if row.room_id == room_id]
            placed = sorted(
                (await self._reader.places(room, ids)).values(),
                key=lambda one: event_entry(one).order,
            )
            for one in await self._visibility.visible(room, user_id, own.get(room_id), placed):
                seen[one.entry.event.event_id] = (room, one)
        hits = []
        for row in rows:
            if row.event_id not in seen:
                continue
            room, one = seen[row.event_id]
            fit = _fit(one, request)
            await asyncio.sleep(0)  # others have their turn: texts may be long
            if fit:
                hits.append(Hit(row.place, room, one, fit))
        return hits


def _ranked(request: MessageSearchRequest, found: Sequence[Hit], *, is_all: bool) -> SearchPage:
    """Returns a page of the newest results, the best first. Later pages rank the same ones: what
    comes meanwhile is above the token's place. Groups have pages of their own if these are all
    results: else the newest of a group would be others."""
    token = request.token
    given = 0 if token is None else token.given
    ordered = sorted(found, key=lambda hit: -hit.rank)  # of equal rank the newest first
    earlier, hits = ordered[:given], ordered[given : given + request.limit]
    if given + len(hits) >= len(ordered):
        return SearchPage(hits, len(found), None)
    if token is None:
        newest = found[0].place
        below = SearchPlace(newest.sent_ms, newest.event_row_id + 1)
    else:
        below = token.below
    following = SearchToken(below, given + len(hits))
    return SearchPage(hits, len(found), following, earlier, groups_go_on=is_all)


def _fit(seen: Seen, request: MessageSearchRequest) -> float:
    """Returns how well an event fits, as its reader sees it; 0 if it doesn't."""
    event = seen.entry.event
    if not allows(request.filter, seen.entry) or seen.entry.redacted_by is not None:
        return 0.0
    return rank(searched_text(event.type, event.content, is_state=event.is_state), request.query)


def _scope(own: Mapping[RoomId, UserRoom], request: MessageSearchRequest) -> SearchScope:
    """Returns where is searched: rooms that the user is or was in, as far as the filter and the
    group of a page let them."""
    rooms = [
        room_id
        for room_id, room in own.items()
        if room.membership in _BEEN_IN
        and not room.forgotten
        and request.filter.allows_room(room_id)
    ]
    senders = request.filter.senders
    token = request.token
    if token is not None and token.group_key == ROOM_ID:
        rooms = [room_id for room_id in rooms if room_id == token.group_value]
    elif token is not None and token.group_key == SENDER:
        one = frozenset({token.group_value})
        senders = one if senders is None else senders & one
    return SearchScope(
        rooms,
        None if senders is None else sorted(map(UserId, senders)),
        sorted(one for one in request.types if request.filter.allows_type(one)),
    )
