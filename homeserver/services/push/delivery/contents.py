"""What a push says of an event: as its reader may see it now, with the names of now.

A redacted event, and one that the user may not see any more, isn't told of. Of an invite to a room
that this server isn't in, the names are those of its stripped state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.ids import DeviceId, EventId, RoomId, StateKey, UserId
from homeserver.engine.followers.memberships import Memberships, UserRoom
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.any_json import load_any
from homeserver.rules.push.gateway_messages import EventNames
from homeserver.services.accounts.requester import Requester

ReadEvent: TypeAlias = Callable[[Requester, RoomId, EventId], Awaitable[bytes]]
"""Returns the JSON of an event as a user may see it. Raises 404 if there is none."""


class PushContents:
    """Reads events and names for pushes."""

    def __init__(self, rooms: Rooms, memberships: Memberships, read_event: ReadEvent) -> None:
        self._rooms, self._memberships, self._read_event = rooms, memberships, read_event

    async def event(
        self, user_id: UserId, room_id: RoomId, event_id: EventId
    ) -> Mapping[str, Any] | None:
        """Returns an event in the format of clients; None for one that isn't to be told of."""
        row = (await self._memberships.of(user_id)).get(room_id)
        if row is not None and row.membership == "invite" and row.event_id == event_id:
            return await self._invite(user_id, room_id, row)
        reader = Requester(user_id, DeviceId(""), 0)
        try:
            event: Mapping[str, Any] = load_any(await self._read_event(reader, room_id, event_id))
        except MatrixError as error:
            if error.status != 404:
                raise
            return None
        return None if "redacted_because" in event["unsigned"] else event

    async def _invite(self, user_id: UserId, room_id: RoomId, row: UserRoom) -> Mapping[str, Any]:
        """Returns an open invite, which its user may see before they see anything of the room."""
        stored = (await self._rooms.client_events([row.event_id])).get(row.event_id)
        if stored is not None:
            invite: Mapping[str, Any] = load_any(stored)
            return invite
        signed = await self._memberships.outside_event(user_id, room_id)
        content = {"membership": "invite"} if signed is None else signed.content
        return {
            "content": content,
            "event_id": row.event_id,
            "room_id": room_id,
            "sender": row.sender,
            "state_key": user_id,
            "type": event_types.MEMBER,
        }

    async def names(self, user_id: UserId, event: Mapping[str, Any]) -> EventNames:
        """Returns the names of an event's sender and room, as they are now."""
        room_id = RoomId(event["room_id"])
        member = (event_types.MEMBER, event["sender"])
        keys = (member, event_types.NAME_KEY, event_types.CANONICAL_ALIAS_KEY)
        room = await self._rooms.get(room_id)
        if room is None:
            contents = await self._stripped(user_id, room_id)
        else:
            state = await self._rooms.state_events(room.view.state, keys)
            contents = {key: found.content for key, found in state.items()}
        fields = ("displayname", "name", "alias")
        found = [contents.get(key, {}).get(name) for key, name in zip(keys, fields, strict=True)]
        return EventNames(*(one if isinstance(one, str) else "" for one in found))

    async def has_state(self, room_id: RoomId, key: StateKey) -> bool:
        """Returns whether a room's state has an event at a key; False for an unknown room."""
        room = await self._rooms.get(room_id)
        return room is not None and key in room.view.state

    async def _stripped(
        self, user_id: UserId, room_id: RoomId
    ) -> Mapping[StateKey, Mapping[str, Any]]:
        row = (await self._memberships.of(user_id)).get(room_id)
        events = load_any(row.stripped) if row is not None and row.stripped else []
        return {
            (one["type"], one["state_key"]): one["content"]
            for one in events
            if isinstance(one.get("content"), dict)
        }
