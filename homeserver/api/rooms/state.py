"""Room state and members: /rooms/{roomId}/state, /members, /joined_members.

Spec: client-server API, "Getting events for a room", "Sending events to a room".
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import StateKey
from homeserver import errors
from homeserver.api.http.query import PageTokens
from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.rooms.directory import parse_room
from homeserver.services.rooms.state import MemberFilter, State

_MEMBERSHIPS = frozenset({"join", "invite", "knock", "leave", "ban"})


class StateApi:
    """Handlers over the service `State`."""

    def __init__(self, state: State, tokens: PageTokens) -> None:
        self._state, self._tokens = state, tokens

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""
        state, keyed = (
            v3("/rooms/{roomId}/state/{eventType}"),
            v3("/rooms/{roomId}/state/{eventType}/{stateKey}"),
        )
        return [
            Route("GET", v3("/rooms/{roomId}/state"), self.all, guests=True),
            Route("GET", state, self.get, guests=True),
            Route("GET", keyed, self.get, guests=True),
            Route("PUT", state, self.put, limit=Limit.MESSAGES, guests=True),
            Route("PUT", keyed, self.put, limit=Limit.MESSAGES, guests=True),
            Route("GET", v3("/rooms/{roomId}/members"), self.members, guests=True),
            Route("GET", v3("/rooms/{roomId}/joined_members"), self.joined_members, guests=True),
        ]

    async def all(self, request: Request) -> RawJson:
        """Returns all state events, as an array."""
        room_id = parse_room(request.params["roomId"])
        return RawJson(await self._state.all(request.requester.user_id, room_id))

    async def get(self, request: Request) -> RawJson:
        """Returns a state event's content, or with `format=event` all of it."""
        room_id, key = parse_room(request.params["roomId"]), _key(request)
        wanted = request.query.get("format") if request.raw_query else None
        if wanted not in (None, "content", "event"):
            raise errors.invalid_param("format must be content or event")
        read = self._state.event if wanted == "event" else self._state.content
        return RawJson(await read(request.requester.user_id, room_id, key))

    async def put(self, request: Request) -> JsonObject:
        """Sets state: {"event_id"}."""
        room_id, key = parse_room(request.params["roomId"]), _key(request)
        if request.requester.is_guest and key[0] == event_types.MEMBER:
            raise MatrixError(
                403, "M_GUEST_ACCESS_FORBIDDEN", "Guests change membership by /join and /leave"
            )
        content = await request.canonical()
        event_id = await self._state.put(
            request.requester.user_id, room_id, key, content, time_ms=request.event_time_ms
        )
        return {"event_id": event_id}

    async def members(self, request: Request) -> RawJson:
        """Returns member events: {"chunk"}."""
        room_id, query = parse_room(request.params["roomId"]), request.query
        wanted = MemberFilter(query.get("membership"), query.get("not_membership"))
        if not {wanted.membership, wanted.not_membership} <= {None, *_MEMBERSHIPS}:
            raise errors.invalid_param("There is no such membership")
        token = query.get("at")
        at = None if token is None else self._tokens.parse("at", token)
        chunk = await self._state.members(request.requester.user_id, room_id, wanted, at)
        return RawJson(b'{"chunk":' + chunk + b"}")

    async def joined_members(self, request: Request) -> JsonObject:
        """Returns names and avatars of joined users: {"joined"}."""
        room_id = parse_room(request.params["roomId"])
        return {"joined": await self._state.joined_members(request.requester.user_id, room_id)}


def _key(request: Request) -> StateKey:
    return (request.params["eventType"], request.params.get("stateKey", ""))
