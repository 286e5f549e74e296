"""Slow servers: those that let a request for events time out are skipped for a while.

That a server makes requests ends its back-off (`Backoffs`), but doesn't show that it answers any:
only an answer ends this. The table is bounded: the server that was noted first is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.bounded_cache import BoundedCache
from federation.events.ids import ServerName
from federation.limits import SLOW_S_MAX, SLOW_S_MIN, SLOW_SERVERS_REMEMBERED_MAX
from federation.ports import Clock
from federation.retries import DoublingWaits

_SKIPPED_S = DoublingWaits(SLOW_S_MIN, SLOW_S_MAX)


@dataclass(frozen=True, slots=True)
class _Slow:
    until_s: float
    length_s: float


class SlowServers:
    """The table."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slow: BoundedCache[ServerName, _Slow] = BoundedCache(SLOW_SERVERS_REMEMBERED_MAX)

    def is_slow(self, server: ServerName) -> bool:
        """Returns whether the server is to be skipped now."""
        slow = self._slow.get(server)
        return slow is not None and slow.until_s > self._clock.monotonic_s()

    def timed_out(self, server: ServerName) -> None:
        """Records that the server didn't answer in time. Of several requests at once the first
        counts."""
        if self.is_slow(server):
            return
        before = self._slow.get(server)
        length_s = _SKIPPED_S.following(before.length_s if before else None)
        self._slow.put(server, _Slow(self._clock.monotonic_s() + length_s, length_s))

    def answered(self, server: ServerName) -> None:
        """Records that the server answered in time, with whatever answer."""
        self._slow.pop(server)
