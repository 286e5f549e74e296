"""Presence as one user may see it: their own, and that of those who share a room with them.

Spec: client-server API, "Presence".
"""

from __future__ import annotations

from collections.abc import Set

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, UserId
from federation.ports import Clock
from homeserver.errors import forbidden
from homeserver.rules.ephemeral.presence import OFFLINE, content_of, presence_event
from homeserver.services.ephemeral.presence_board import PresenceBoard, PresenceRecord
from homeserver.services.ephemeral.presence_rooms import PresenceRooms


class PresenceView:
    """Reads records."""

    def __init__(self, board: PresenceBoard, rooms: PresenceRooms, clock: Clock) -> None:
        self.board, self._rooms, self._clock = board, rooms, clock

    async def status(self, reader: UserId, user_id: UserId) -> JsonObject:
        """GET /presence/{userId}/status. Raises 403 M_FORBIDDEN for a user who shares no room,
        whether there is such a user or not."""
        if reader != user_id:
            rooms = await self._rooms.look_up(reader)
            if rooms.isdisjoint(await self._rooms.look_up(user_id)):
                raise forbidden("You share no room with the user")
        record = self.board.get(user_id)
        if record is None:
            return {"presence": OFFLINE}
        return content_of(record.shown, record.active_s, self._clock.monotonic_s())

    async def rooms_of(self, reader: UserId) -> Set[RoomId]:
        """Returns the rooms that a reader is joined to, for `is_seen`."""
        return await self._rooms.look_up(reader)

    def is_seen(self, record: PresenceRecord, reader: UserId, rooms: Set[RoomId]) -> bool:
        """Returns whether a reader with these rooms may see a record."""
        return record.user_id == reader or self._rooms.share(rooms, record.user_id)

    def event(self, record: PresenceRecord) -> bytes:
        """Returns an m.presence event, as of now."""
        content = content_of(record.shown, record.active_s, self._clock.monotonic_s())
        return presence_event(record.user_id, content, record.profile)

    def of(self, user_id: UserId) -> tuple[bytes, Set[RoomId]] | None:
        """Returns a user's m.presence event and rooms, for application services."""
        record = self.board.get(user_id)
        return None if record is None else (self.event(record), self._rooms.of(user_id))
