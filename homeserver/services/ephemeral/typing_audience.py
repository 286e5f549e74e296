"""Those who are told that users of a room type: its syncs, and its other servers.

Rules:
1. Only rooms in memory have an audience: in any other nobody typed, and no sync looks on.
2. Other servers are told once: an m.typing EDU isn't kept for a server that can't be reached.

Spec: client-server API, "Typing notifications"; server-server API, "Typing notifications".
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName, UserId
from homeserver.engine.followers.fanout import Fanout
from homeserver.engine.rooms.rooms import Rooms

Forward = Callable[[Collection[ServerName], JsonObject], None]
"""Hands an EDU over to be sent to servers (`engine.followers.outbound_feed.LogFeed.forward`)."""


class TypingAudience:
    """Syncs and servers of rooms."""

    def __init__(self, rooms: Rooms, fanout: Fanout, forward: Forward) -> None:
        self._rooms, self._fanout, self._forward = rooms, fanout, forward
        self._followers: list[Callable[[RoomId], None]] = []

    def subscribe(self, changed: Callable[[RoomId], None]) -> None:
        """Registers `changed`, which is called with each room in which other users type now."""
        self._followers.append(changed)

    def wake(self, room_id: RoomId) -> None:
        """Wakes the syncs of a room, and tells those who follow."""
        for changed in self._followers:
            changed(room_id)
        room = self._rooms.hot(room_id)
        if room is not None:
            self._fanout.wake_room(room)

    def announce(self, room_id: RoomId, user_id: UserId, typing: bool) -> None:
        """Tells the other servers of a room whether a local user types."""
        room = self._rooms.hot(room_id)
        if room is not None:
            content = {"room_id": room_id, "user_id": user_id, "typing": typing}
            self._forward(room.view.servers, {"edu_type": event_types.TYPING, "content": content})
