"""The newest part of the log in memory, for followers and incremental syncs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from homeserver.engine.entries import Placed, entry_bytes


class LogTail:
    """The newest entries, bounded in number and in bytes; positions have no gaps, so an index is
    arithmetic."""

    def __init__(self, position: int, entries_max: int, bytes_max: int) -> None:
        self.start = position
        self.end = position
        self._entries: deque[Placed] = deque()
        self._entries_max = entries_max
        self._sizes: deque[int] = deque()
        self._bytes_max = bytes_max
        self.bytes = 0

    def append(self, placed: Sequence[Placed]) -> None:
        """Adds a committed batch."""
        for one in placed:
            assert one.position == self.end + 1, "positions follow each other without a gap"
            size = entry_bytes(one.entry)
            self._entries.append(one)
            self._sizes.append(size)
            self.bytes += size
            self.end += 1
        while len(self._entries) > self._entries_max or self.bytes > self._bytes_max:
            self._entries.popleft()
            self.bytes -= self._sizes.popleft()
            self.start += 1

    def window(self, position: int, up_to: int) -> list[Placed]:
        """Returns the entries after `position`, up to another one, oldest first; `position` must
        not be before `start`."""
        assert position >= self.start, "the tail does not reach back so far"
        return list(islice(self._entries, position - self.start, up_to - self.start))

    def since(self, position: int) -> Sequence[Placed]:
        """Returns the entries after `position`, oldest first; `position` must not be before
        `start`.
        """
        assert position >= self.start, "the tail does not reach back so far"
        count = self.end - position
        if count <= 0:
            return ()
        if count == 1:
            return (self._entries[-1],)
        newest = list(islice(reversed(self._entries), count))
        newest.reverse()
        return newest
