"""Row numbers, taken from the database in blocks: each is used only once."""

from __future__ import annotations

from collections import deque

from homeserver.engine.rooms.room import Superseded
from homeserver.engine.store import LogStore


class RowNumbers:
    """The reserved numbers."""

    def __init__(self, log: LogStore) -> None:
        self._log = log
        self._blocks: deque[range] = deque()
        self._next = 0
        self._end = 0

    def take(self) -> int:
        """Returns a row number. The caller reserved some by `ready`; if other tasks took them in
        the meantime, it has to stage again (Superseded)."""
        if self._next >= self._end:
            if not self._blocks:
                raise Superseded
            block = self._blocks.popleft()
            self._next, self._end = block.start, block.stop
        self._next += 1
        return self._next - 1

    @property
    def left(self) -> int:
        """Returns how many are reserved."""
        return self._end - self._next + sum(len(block) for block in self._blocks)

    async def ready(self, count: int) -> None:
        """Reserves blocks until `count` are available."""
        while self.left < count:
            self._blocks.append(await self._log.take_row_ids())
