"""The rooms with due rechecks, as a queue for the worker.

The tables hold the due events (`storage.timeline.rechecks`); this only wakes the worker. A room
that is added twice is processed once; the set is bounded by the rooms of this server.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from federation.events.ids import RoomId


class DueRooms:
    """A queue of rooms without repeats."""

    def __init__(self) -> None:
        self._rooms: OrderedDict[RoomId, None] = OrderedDict()
        self._filled = asyncio.Event()

    def add(self, room_ids: Iterable[RoomId]) -> None:
        """Adds rooms in which something may be due."""
        self._rooms.update(dict.fromkeys(room_ids))
        if self._rooms:
            self._filled.set()

    async def next(self) -> RoomId:
        """Returns the room that has waited longest; waits for one."""
        while not self._rooms:
            self._filled.clear()
            await self._filled.wait()
        room_id, _ = self._rooms.popitem(last=False)
        return room_id
