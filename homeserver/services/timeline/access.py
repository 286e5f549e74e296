"""Who may read a room's past, and from which place on.

Rules:
1. A user who isn't and was never in the room, and may not peek, gets 403.
2. An event that may not be seen is treated as missing: 404.

Spec: client-server API, "Getting events for a room"; "Room history visibility".
"""

from __future__ import annotations

from typing import NamedTuple

from federation.events.ids import EventId, RoomId, UserId
from homeserver import errors
from homeserver.engine.followers.memberships import Memberships, UserRoom
from homeserver.engine.rooms.reader import BEGINNING, END, Reader
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.sync.sync_tokens import Point, SyncToken, just_after
from homeserver.services.timeline.client_events import Seen
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage.logs import LOG


class SeenInRoom(NamedTuple):
    """An event that a user sees, its room, and their membership of it."""

    room: Room
    user_room: UserRoom | None
    seen: Seen


class ReadAccess:
    """Finds rooms and events for their readers."""

    def __init__(
        self, rooms: Rooms, reader: Reader, memberships: Memberships, visibility: Visibility
    ) -> None:
        self._rooms = rooms
        self._reader = reader
        self._memberships = memberships
        self._visibility = visibility

    async def readable(self, user_id: UserId, room_id: RoomId) -> tuple[Room, UserRoom | None]:
        """Returns the room, if the user is or was in it, or anyone may read it. Raises 403."""
        room = await self._rooms.get(room_id)
        user_room = (await self._memberships.of(user_id)).get(room_id)
        if room is not None and (
            await self._visibility.was_joined(room, user_id, user_room)
            or await self._visibility.is_world_readable(room)
        ):
            return room, user_room
        raise errors.forbidden("You aren't a member of this room")

    async def event(self, user_id: UserId, room_id: RoomId, event_id: EventId) -> SeenInRoom:
        """Returns an event that the user sees. Raises 404 M_NOT_FOUND."""
        found = await self.find(user_id, room_id, event_id)
        if found is None:
            raise errors.not_found("There is no such event, or you may not see it")
        return found

    async def find(self, user_id: UserId, room_id: RoomId, event_id: EventId) -> SeenInRoom | None:
        """Returns the same, None if the user sees no such event."""
        room = await self._rooms.get(room_id)
        user_room = (await self._memberships.of(user_id)).get(room_id)
        placed = None if room is None else await self._reader.place(room, event_id)
        if room is None or placed is None:
            return None
        seen = await self._visibility.visible(room, user_id, user_room, [placed])
        return SeenInRoom(room, user_room, seen[0]) if seen else None

    async def point(self, room: Room, token: Point | SyncToken) -> Point:
        """Returns the position of a token in this room: a sync's token is after everything that the
        sync sent.
        """
        if isinstance(token, Point):
            return Point(max(BEGINNING, min(END, token.before)))
        return just_after(await self._reader.order_at(room, token.position(LOG)))
