"""Copies a user's settings for a room to the room that replaces it.

Rules:
1. A room replaces another if its create event names that as its predecessor and the other's
   tombstone, as this server knows it, names it as its replacement. Otherwise any user could create
   a room that counts as a direct chat.
2. Tags and m.direct are carried over, once, when the user joins. A failure doesn't undo the join.

Spec: client-server API, "Room Upgrades", "Server behaviour".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.ids import RoomId, StateKey, UserId
from homeserver.engine.followers.memberships import Memberships
from homeserver.engine.rooms.rooms import Rooms

log = logging.getLogger("freehold.upgrades")


Move: TypeAlias = Callable[[UserId, RoomId, RoomId], Awaitable[None]]
"""Copies a user's account data from a room to another."""


class Successions:
    """Carries settings over to rooms that replace others."""

    def __init__(self, rooms: Rooms, memberships: Memberships, move: Move) -> None:
        self._rooms, self._memberships, self._move = rooms, memberships, move

    async def joined(self, user_id: UserId, room_id: RoomId) -> None:
        """Notes that a local user joined a room."""
        old = await self._predecessor(room_id)
        if old is None or old not in await self._memberships.of(user_id):
            return
        try:
            await self._move(user_id, old, room_id)
        except MatrixError as error:
            log.info("%s keeps their settings of %s there: %s", user_id, old, error)

    async def _predecessor(self, room_id: RoomId) -> RoomId | None:
        named = await self._named(room_id, event_types.CREATE_KEY, "predecessor")
        old = named.get("room_id") if isinstance(named, dict) else None
        if not isinstance(old, str):
            return None
        replacement = await self._named(RoomId(old), event_types.TOMBSTONE_KEY, "replacement_room")
        return RoomId(old) if replacement == room_id else None

    async def _named(self, room_id: RoomId, key: StateKey, name: str) -> object:
        room = await self._rooms.get(room_id)
        if room is None:
            return None
        event = (await self._rooms.state_events(room.view.state, [key])).get(key)
        return None if event is None else event.content.get(name)
