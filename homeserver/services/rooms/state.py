"""Room state: reading it, as a user may see it, and setting it.

Rules:
1. Reads splice the stored JSON of events together; nothing is parsed for a list.
2. `RoomAccess` decides which state a user sees: the current one, or that of when they left.
3. Writes are drafts for the writer; membership and canonical aliases are checked first.

Spec: client-server API, "Getting events for a room", "Sending events to a room"; room_state.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, StateKey, UserId
from federation.graph.building import EventDraft
from homeserver import errors
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Room
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.rules.any_json import dump_any, load_any
from homeserver.rules.sync.sync_tokens import Point, SyncToken
from homeserver.rules.timeline.visibility import may_see
from homeserver.services.rooms.directory import Directory
from homeserver.services.rooms.member_state import MemberState
from homeserver.services.rooms.room_access import (
    NOT_IN_ROOM,
    RoomAccess,
    RoomContext,
    as_forbidden,
)

_LOG = 1  # this server has one log


class MemberFilter(msgspec.Struct, frozen=True):
    """Selects members: those with `membership`, or all without `not_membership`; with both, either
    is enough (spec: /members)."""

    membership: str | None = None
    not_membership: str | None = None

    def wants(self, membership: str | None) -> bool:
        """Returns whether a membership passes."""
        if self.membership is None and self.not_membership is None:
            return True
        if self.membership is not None and membership == self.membership:
            return True
        return self.not_membership is not None and membership != self.not_membership


class _MemberContent(msgspec.Struct, frozen=True):
    displayname: object = None
    avatar_url: object = None


class _MemberEvent(msgspec.Struct, frozen=True):
    content: _MemberContent


_MEMBER_EVENT = msgspec.json.Decoder(_MemberEvent)


class State:
    """Reads and writes room state."""

    def __init__(
        self,
        engine: RoomContext,
        directory: Directory,
        members: MemberState,
        reader: Reader,
    ) -> None:
        self._engine = engine
        self._access = RoomAccess(engine)
        self._directory = directory
        self._members = members
        self._reader = reader

    # reads

    async def event(self, user_id: UserId, room_id: RoomId, key: StateKey) -> bytes:
        """Returns a state event for clients, as JSON. Raises 403, 404 M_NOT_FOUND."""
        readable = await self._access.readable(user_id, room_id)
        found = readable.state.get(key)
        if found is None:
            raise errors.not_found("The room has no such state")
        client = await self._engine.rooms.client_events([found.event_id])
        return client[found.event_id]

    async def content(self, user_id: UserId, room_id: RoomId, key: StateKey) -> bytes:
        """Returns the content of a state event, as JSON. Raises 403, 404 M_NOT_FOUND."""
        event: JsonObject = load_any(await self.event(user_id, room_id, key))
        return dump_any(event["content"])

    async def all(self, user_id: UserId, room_id: RoomId) -> bytes:
        """Returns all state events, as a JSON array. Raises 403."""
        readable = await self._access.readable(user_id, room_id)
        return await self._array([ref.event_id for ref in readable.state.values()])

    async def members(
        self,
        user_id: UserId,
        room_id: RoomId,
        wanted: MemberFilter,
        at: SyncToken | Point | None = None,
    ) -> bytes:
        """Returns the member events that `wanted` lets pass, as a JSON array; as they were at a
        point, if one is given (never later than what the user may see). Raises 403."""
        readable = await self._access.readable(user_id, room_id)
        state = readable.state
        if at is not None and readable.is_current:
            state = await self._state_at(readable.room, user_id, at)
        wants = wanted.wants
        return await self._array(
            [
                ref.event_id
                for key, ref in state.items()
                if key[0] == event_types.MEMBER and wants(ref.membership)
            ]
        )

    async def _state_at(
        self, room: Room, user_id: UserId, at: SyncToken | Point
    ) -> Mapping[StateKey, StateRef]:
        """Returns the state after the newest event before a point; empty before the room's first
        one. If the user may not see that event, it returns the current state, which they may see.
        """
        if isinstance(at, SyncToken):
            position = min(at.position(_LOG), room.view.position)
            if position == room.view.position:
                return room.view.state
            part = await self._reader.newest(room, after=0, up_to=position, limit=1)
            found = part.events
        else:
            found = await self._reader.page(room, start=at.before, backwards=True, limit=1)
        if not found:
            return {}
        event_id = event_entry(found[0]).event.event_id
        moments = (await self._reader.moments.of_user(room, user_id, [event_id])).get(event_id)
        is_joined = user_id in room.joined_local
        if moments is None or not may_see(*moments, joined_later=is_joined):
            return room.view.state
        return await self._engine.rooms.state_after(room, event_id) or room.view.state

    async def joined_members(self, user_id: UserId, room_id: RoomId) -> Mapping[str, JsonObject]:
        """Returns display name and avatar of each joined user, for joined users. Raises 403."""
        room = await self._access.joined(user_id, room_id)
        joined = {
            key[1]: ref.event_id
            for key, ref in room.view.state.items()
            if key[0] == event_types.MEMBER and ref.membership == "join"
        }
        client = await self._engine.rooms.client_events(joined.values())
        return {user: _profile(client[event_id]) for user, event_id in joined.items()}

    async def _array(self, event_ids: list[EventId]) -> bytes:
        client = await self._engine.rooms.client_events(event_ids)
        return b"[" + b",".join([client[event_id] for event_id in event_ids]) + b"]"

    # writes

    async def put(
        self,
        user_id: UserId,
        room_id: RoomId,
        key: StateKey,
        content: JsonObject,
        *,
        time_ms: int | None = None,
    ) -> EventId:
        """Sets a piece of state; if an equal one is set already, its event ID is returned.
        `time_ms` is its `origin_server_ts`, None for now. Raises 403 M_FORBIDDEN, 400 M_BAD_ALIAS,
        M_INVALID_PARAM, M_BAD_JSON, 413 M_TOO_LARGE."""
        event_type, state_key = key
        draft = EventDraft(
            event_type, user_id, content, state_key=state_key, origin_server_ts=time_ms
        )
        if event_type == event_types.MEMBER:
            return await self._members.put(room_id, draft)
        if key == event_types.CANONICAL_ALIAS_KEY:
            room = await self._engine.rooms.get(room_id)
            if room is None or user_id not in room.joined_local:
                raise errors.forbidden(NOT_IN_ROOM)
            await self._directory.check_canonical(room_id, content)
        if event_type == event_types.REDACTION:
            raise errors.invalid_param("m.room.redaction isn't a state event")
        try:
            return (await self._engine.writer.send(room_id, draft)).event_id
        except MatrixError as error:
            raise as_forbidden(error) from error


def _profile(member: bytes) -> JsonObject:
    """Returns display name and avatar of a member event."""
    try:
        content = _MEMBER_EVENT.decode(member).content
    except RecursionError:  # nested too deeply for the decoder
        content = msgspec.convert(load_any(member), _MemberEvent).content
    profile: JsonObject = {}
    if isinstance(content.displayname, str):
        profile["display_name"] = content.displayname
    if isinstance(content.avatar_url, str):
        profile["avatar_url"] = content.avatar_url
    return profile
