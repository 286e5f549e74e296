"""Joins of local users that are under way through other servers at this moment.

Rules:
1. The resident server counts us as a member from its commit on, and sends what is said in the room
   at once: that may be here before the answer to our send_join is checked and stored. Such events
   must wait for the join instead of being refused as those of an unknown room, or they would be
   lost until somebody refers to them.
2. Its users also encrypt for the joining user from then on. So the servers that were asked to
   accept a join are recorded from the moment of the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from federation.events.ids import RoomId, ServerName, UserId
from federation.limits import ARRIVAL_WAIT_S_MAX


class Arrival:
    """One join under way. `asked`: the servers that were asked so far to accept it."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked: set[ServerName] = set()


class Arrivals:
    """Joins under way, by room and by user."""

    def __init__(self) -> None:
        self._by_room: dict[RoomId, int] = {}
        self._by_user: dict[UserId, list[Arrival]] = {}
        self._over: dict[RoomId, asyncio.Event] = {}

    @contextmanager
    def joining(self, room_id: RoomId, user_id: UserId) -> Iterator[Arrival]:
        """Records that the user's join is under way as long as the block lasts."""
        arrival = Arrival()
        self._by_room[room_id] = self._by_room.get(room_id, 0) + 1
        self._by_user.setdefault(user_id, []).append(arrival)
        try:
            yield arrival
        finally:
            self._end(room_id, user_id, arrival)

    def _end(self, room_id: RoomId, user_id: UserId, arrival: Arrival) -> None:
        self._by_user[user_id].remove(arrival)
        if not self._by_user[user_id]:
            del self._by_user[user_id]
        self._by_room[room_id] -= 1
        if self._by_room[room_id] == 0:
            del self._by_room[room_id]
            over = self._over.pop(room_id, None)
            if over is not None:
                over.set()

    def is_joining(self, user_id: UserId) -> bool:
        """Returns whether a join of the user is under way."""
        return user_id in self._by_user

    def has_asked(self, user_id: UserId, server: ServerName) -> bool:
        """Returns whether a join of the user is under way that this server was asked to accept."""
        return any(server in arrival.asked for arrival in self._by_user.get(user_id, ()))

    async def are_over(self, room_id: RoomId) -> bool:
        """Waits until no join of the room is under way; False if that takes too long."""
        if room_id not in self._by_room:
            return True
        over = self._over.setdefault(room_id, asyncio.Event())
        try:
            async with asyncio.timeout(ARRIVAL_WAIT_S_MAX):
                await over.wait()
        except TimeoutError:
            return False
        return True
