"""Results of a search as clients get them: events with their aggregations and context, groups, and
states.

Spec: client-server API, POST /search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import orjson

from federation.events import event_types
from federation.events.ids import EventId, StateKey, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import Placed
from homeserver.engine.followers.memberships import Memberships, UserRoom
from homeserver.engine.log.log_history import LogHistory
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.rules.sync.sync_tokens import Point, just_after, just_before
from homeserver.rules.timeline.search_requests import (
    ROOM_ID,
    ContextWanted,
    MessageSearchRequest,
    SearchPlace,
    SearchToken,
    format_search_token,
)
from homeserver.services.accounts.requester import Requester
from homeserver.services.timeline.bundles import Bundles, RoomEvents
from homeserver.services.timeline.client_events import (
    Seen,
    Viewer,
    json_list,
    json_object,
    load_extras,
    needed,
    render,
)
from homeserver.services.timeline.visibility import Visibility


class Hit(msgspec.Struct, frozen=True):
    """An event that was found, with its place in the index, and how well it fits."""

    place: SearchPlace
    room: Room
    seen: Seen
    rank: float


class SearchPage(msgspec.Struct, frozen=True):
    """A page of results in their order. `count`: how many were found so far; `next` is None if
    there are no more; `earlier`: those of former pages that are ranked with them; `groups_go_on`:
    each group has pages of its own."""

    hits: Sequence[Hit]
    count: int
    next: SearchToken | None
    earlier: Sequence[Hit] = ()
    groups_go_on: bool = True


class SearchResults:
    """Renders pages."""

    def __init__(
        self,
        rooms: Rooms,
        reader: Reader,
        memberships: Memberships,
        visibility: Visibility,
        bundles: Bundles,
        *,
        clock: Clock,
        log_history: LogHistory,
    ) -> None:
        self._rooms, self._reader, self._memberships = rooms, reader, memberships
        self._visibility, self._bundles = visibility, bundles
        self._clock, self._log_history = clock, log_history

    async def render(
        self, requester: Requester, request: MessageSearchRequest, page: SearchPage
    ) -> bytes:
        """Returns the JSON of `room_events`."""
        viewer = Viewer(requester.user_id, requester.device_id, self._clock.now_ms())
        own, found = await self._memberships.of(viewer.user_id), _by_room(page.hits)
        extras = await self._bundles.extras(
            viewer,
            [RoomEvents(room, own.get(room.room_id), events) for room, events in found],
        )
        results = []
        for hit in page.hits:
            members = [
                ("rank", orjson.dumps(hit.rank)),
                ("result", render(hit.seen, viewer, extras)),
            ]
            if request.context is not None:
                members.append(("context", await self._context(viewer, hit, request.context)))
            results.append(json_object(members))
        parts = [
            ("count", b"%d" % page.count),
            ("highlights", orjson.dumps(request.query.highlights)),
            ("results", json_list(results)),
        ]
        if request.include_state:
            parts.append(("state", await self._states(requester.user_id, page.hits)))
        if request.group_by:
            parts.append(("groups", orjson.dumps(_groups(request, page))))
        if page.next is not None:
            token = _within(page.next, request.token)
            parts.append(("next_batch", orjson.dumps(format_search_token(token))))
        return json_object(parts)

    async def _context(self, viewer: Viewer, hit: Hit, wanted: ContextWanted) -> bytes:
        """Returns the JSON of the events around a result, as far as they are stored here."""
        room, order = hit.room, hit.seen.entry.order
        before = await self._side(room, order, wanted.before, backwards=True)
        after = await self._side(room, order, wanted.after, backwards=False)
        around = [*before[::-1], hit.seen.placed, *after]
        user_room = (await self._memberships.of(viewer.user_id)).get(room.room_id)
        visible = await self._visibility.visible(room, viewer.user_id, user_room, around)
        extras = await load_extras(self._rooms, needed(visible), viewer)
        shown = {one.entry.event.event_id: render(one, viewer, extras) for one in visible}
        parts = [
            ("start", self._token(just_before(event_entry(around[0]).order))),
            ("end", self._token(just_after(event_entry(around[-1]).order))),
            ("events_before", json_list(_pick(shown, before))),
            ("events_after", json_list(_pick(shown, after))),
        ]
        if wanted.profiles:
            profiles = await self._profiles(room, hit.seen, visible)
            parts.append(("profile_info", orjson.dumps(profiles)))
        return json_object(parts)

    async def _side(
        self, room: Room, order: tuple[int, int], limit: int, *, backwards: bool
    ) -> list[Placed]:
        if not limit:
            return []
        return await self._reader.page(room, start=order, backwards=backwards, limit=limit)

    async def _profiles(
        self, room: Room, result: Seen, visible: Sequence[Seen]
    ) -> Mapping[UserId, Mapping[str, str]]:
        """Returns names and avatars of the senders as they were at the result."""
        after = await self._rooms.state_after(room, result.entry.event.event_id)
        state: Mapping[StateKey, StateRef] = after or {}
        senders = {one.entry.event.sender for one in (result, *visible)}
        refs = {
            sender: ref
            for sender in sorted(senders)
            if (ref := state.get((event_types.MEMBER, sender))) is not None
        }
        known = await self._rooms.events([ref.event_id for ref in refs.values()])
        return {
            sender: {
                key: value
                for key in ("displayname", "avatar_url")
                if isinstance(value := known[ref.event_id].event.content.get(key), str)
            }
            for sender, ref in refs.items()
            if ref.event_id in known
        }

    async def _states(self, user_id: UserId, hits: Sequence[Hit]) -> bytes:
        """Returns the JSON of the state of each room that has a result, as the reader sees or last
        saw it, as far as they fit."""
        own = await self._memberships.of(user_id)
        parts, size = [], 0
        for room in {hit.room.room_id: hit.room for hit in hits}.values():
            state = await self._state(room, user_id, own.get(room.room_id))
            ids = [ref.event_id for ref in state.values()]
            events = list((await self._rooms.client_events(ids)).values())
            size += sum(map(len, events))
            if size > limits.SEARCH_STATE_BYTES:
                break
            parts.append((room.room_id, json_list(events)))
        return json_object(parts)

    async def _state(
        self, room: Room, user_id: UserId, user_room: UserRoom | None
    ) -> Mapping[StateKey, StateRef]:
        is_joined = user_room is not None and user_room.membership == "join"
        if is_joined or await self._visibility.is_world_readable(room):
            return room.view.state
        return await self._visibility.last_seen(room, user_id, user_room)

    def _token(self, point: Point) -> bytes:
        return orjson.dumps(self._log_history.format_point(point))


def _by_room(hits: Sequence[Hit]) -> list[tuple[Room, list[Seen]]]:
    rooms = {hit.room.room_id: hit.room for hit in hits}
    return [
        (room, [hit.seen for hit in hits if hit.room.room_id == room.room_id])
        for room in rooms.values()
    ]


def _pick(shown: Mapping[EventId, bytes], placed: Sequence[Placed]) -> list[bytes]:
    ids = [event_entry(one).event.event_id for one in placed]
    return [shown[event_id] for event_id in ids if event_id in shown]


def _within(token: SearchToken, former: SearchToken | None) -> SearchToken:
    """Returns a token of the group that the search is within, if it is within one."""
    if former is None:
        return token
    return SearchToken(token.below, token.given, former.group_key, former.group_value)


def _groups(
    request: MessageSearchRequest, page: SearchPage
) -> dict[str, dict[str, dict[str, object]]]:
    """Returns the results of a page by room, by sender, or by both; groups come in the order of
    their first result."""
    groups: dict[str, dict[str, dict[str, object]]] = {}
    for key in request.group_by:
        found: dict[str, list[Hit]] = {}
        for hit in page.hits:
            found.setdefault(_value(key, hit), []).append(hit)
        groups[key] = {
            value: _group(request, page, (key, value), number) for number, value in enumerate(found)
        }
    return groups


def _group(
    request: MessageSearchRequest, page: SearchPage, group: tuple[str, str], order: int
) -> dict[str, object]:
    """Returns a group. Its token gives the group's further results."""
    key, value = group
    hits = [hit for hit in page.hits if _value(key, hit) == value]
    described: dict[str, object] = {
        "order": order,
        "results": [hit.seen.entry.event.event_id for hit in hits],
    }
    is_within = request.token is not None and request.token.group_key
    if page.next is not None and page.groups_go_on and not is_within:
        below, given = hits[-1].place, 0
        if request.by_rank:
            earlier = [hit for hit in page.earlier if _value(key, hit) == value]
            below, given = page.next.below, len(earlier) + len(hits)
        described["next_batch"] = format_search_token(SearchToken(below, given, key, value))
    return described


def _value(key: str, hit: Hit) -> str:
    event = hit.seen.entry.event
    return event.room_id if key == ROOM_ID else event.sender
