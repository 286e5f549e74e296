"""What a push says of an event: as its reader may see it now, with the names of now.

A redacted event, and one that the user may not see any more, isn't told of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.ids import DeviceId, EventId, RoomId
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.any_json import load_any
from homeserver.rules.push.gateway_messages import EventNames
from homeserver.services.accounts.requester import Requester
from homeserver.storage.push.pushers import StoredPusher

ReadEvent: TypeAlias = Callable[[Requester, RoomId, EventId], Awaitable[bytes]]
"""Returns the JSON of an event as a user may see it. Raises 404 if there is none."""


class PushContents:
    """Reads events and names for pushes."""

    def __init__(self, rooms: Rooms, read_event: ReadEvent) -> None:
        self._rooms, self._read_event = rooms, read_event

    async def event(
        self, pusher: StoredPusher, room_id: RoomId, event_id: EventId
    ) -> Mapping[str, Any] | None:
        """Returns an event in the format of clients; None for one that isn't to be told of."""
        reader = Requester(pusher.user_id, DeviceId(""), 0)
        try:
            event: Mapping[str, Any] = load_any(await self._read_event(reader, room_id, event_id))
        except MatrixError as error:
            if error.status != 404:
                raise
            return None
        return None if "redacted_because" in event["unsigned"] else event

    async def names(self, event: Mapping[str, Any]) -> EventNames:
        """Returns the names of an event's sender and room, as they are now."""
        room = await self._rooms.get(RoomId(event["room_id"]))
        if room is None:
            return EventNames()
        member = (event_types.MEMBER, event["sender"])
        keys = (member, event_types.NAME_KEY, event_types.CANONICAL_ALIAS_KEY)
        state = await self._rooms.state_events(room.view.state, keys)
        found = [
            state[key].content.get(name) if key in state else None
            for key, name in zip(keys, ("displayname", "name", "alias"), strict=True)
        ]
        return EventNames(*(one if isinstance(one, str) else "" for one in found))
