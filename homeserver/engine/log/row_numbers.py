"""Row numbers, taken from the database in blocks: nobody else has them, none is given out twice."""

from __future__ import annotations

from collections import deque

from homeserver.engine.rooms.room import Superseded
from homeserver.engine.store import LogStore


class RowNumbers:
    """The numbers at hand."""

    def __init__(self, log: LogStore) -> None:
        self._log = log
        self._blocks: deque[range] = deque()
        self._next = 0
        self._end = 0

    def take(self) -> int:
        """A row number. The caller made sure of some by `ready`; where others took them meanwhile,
        it has to stage again (Superseded)."""
        if self._next >= self._end:
            if not self._blocks:
                raise Superseded
            block = self._blocks.popleft()
            self._next, self._end = block.start, block.stop
        self._next += 1
        return self._next - 1

    @property
    def left(self) -> int:
        """How many are at hand."""
        return self._end - self._next + sum(len(block) for block in self._blocks)

    async def ready(self, count: int) -> None:
        """Takes blocks until `count` are at hand."""
        while self.left < count:
            self._blocks.append(await self._log.take_nids())
