"""Rooms that users of ours are joining at this moment.

The resident server counts us as a member from its commit on, and sends what is said in the room at
once: that may be here before the answer to our send_join is checked and stored. Such events must
wait for the join instead of being refused as those of an unknown room, or they would be lost until
somebody refers to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from federation.events.ids import RoomId
from federation.limits import ARRIVAL_WAIT_S_MAX


class Arrivals:
    """Joins on their way, by room."""

    def __init__(self) -> None:
        self._joins: dict[RoomId, int] = {}
        self._over: dict[RoomId, asyncio.Event] = {}

    @contextmanager
    def joining(self, room_id: RoomId) -> Iterator[None]:
        """A join of the room is on its way as long as the block lasts."""
        self._joins[room_id] = self._joins.get(room_id, 0) + 1
        try:
            yield
        finally:
            self._joins[room_id] -= 1
            if self._joins[room_id] == 0:
                del self._joins[room_id]
                over = self._over.pop(room_id, None)
                if over is not None:
                    over.set()

    def is_any(self) -> bool:
        """Is a join of any room on its way?"""
        return bool(self._joins)

    async def are_over(self, room_id: RoomId) -> bool:
        """Waits until no join of the room is on its way; False if that takes too long."""
        if room_id not in self._joins:
            return True
        over = self._over.setdefault(room_id, asyncio.Event())
        try:
            async with asyncio.timeout(ARRIVAL_WAIT_S_MAX):
                await over.wait()
        except TimeoutError:
            return False
        return True
