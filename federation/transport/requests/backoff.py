"""Back-off: how long each failing server is left alone, shared by all callers.

Rules:
1. A failure makes the wait random between the least and three times the last one (decorrelated
   jitter), so that servers which failed together don't return together; a peer's Retry-After
   counts when it is longer.
2. A success, or an authenticated request from the peer, ends the wait at once and tells listeners.
3. A clock that is set back makes no wait longer than twice what it was to be.
4. The table is bounded: past it the oldest entry is dropped, which costs one more try.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from federation.bounded_cache import BoundedCache
from federation.events.ids import ServerName
from federation.limits import (
    BACKOFF_RETRY_AFTER_S_MAX,
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    BACKOFFS_REMEMBERED_MAX,
    ERROR_CHARACTERS_MAX,
)
from federation.ports import Clock


@dataclass(frozen=True, slots=True)
class Backoff:
    """One server's state; times in milliseconds since 1970. `wait_ms` is the whole of the wait that
    ends at `retry_at_ms`."""

    failing_since_ms: int
    retry_at_ms: int
    interval_ms: int
    last_error: str
    wait_ms: int = 0


class Backoffs:
    """The table. `random` returns floats in [0, 1); no interval is longer than `s_max`."""

    def __init__(
        self, clock: Clock, random: Callable[[], float], *, s_max: float = BACKOFF_S_MAX
    ) -> None:
        self._clock, self._random, self._s_max = clock, random, s_max
        self._failing: BoundedCache[ServerName, Backoff] = BoundedCache(BACKOFFS_REMEMBERED_MAX)
        self._reachable: BoundedCache[ServerName, None] = BoundedCache(BACKOFFS_REMEMBERED_MAX)
        self._listeners: list[Callable[[ServerName], None]] = []

    def separate(self, s_max: float) -> Backoffs:
        """Returns a table of its own for requests whose failures don't concern the others."""
        return Backoffs(self._clock, self._random, s_max=s_max)

    def of(self, server: ServerName) -> Backoff | None:
        """Returns the state of a failing server; None when nothing is wrong."""
        return self._failing.get(server)

    def is_reachable(self, server: ServerName) -> bool:
        """Returns whether the server answered and hasn't failed since, as far as it is
        remembered."""
        return server in self._reachable

    def wait_s(self, server: ServerName) -> float:
        """Returns the remaining back-off of the server; 0.0 when it may be tried."""
        state = self._failing.get(server)
        if state is None:
            return 0.0
        now_ms = self._clock.now_ms()
        if state.retry_at_ms - now_ms > state.wait_ms:
            state = replace(state, retry_at_ms=now_ms + state.wait_ms)
            self._failing.put(server, state)
        return max(0.0, (state.retry_at_ms - now_ms) / 1000)

    def failed(self, server: ServerName, error: str, *, retry_after_s: float = 0.0) -> Backoff:
        """Counts a failure and returns the new state."""
        self._reachable.pop(server)
        now_ms = self._clock.now_ms()
        state = self._failing.get(server) or Backoff(now_ms, now_ms, 0, error)
        base_ms = BACKOFF_S_MIN * 1000
        upper_ms = max(base_ms, state.interval_ms * 3)
        interval_ms = min(self._s_max * 1000, base_ms + self._random() * (upper_ms - base_ms))
        asked_ms = min(retry_after_s, BACKOFF_RETRY_AFTER_S_MAX) * 1000
        wait_ms = int(max(interval_ms, asked_ms))
        state = replace(
            state,
            interval_ms=int(interval_ms),
            retry_at_ms=now_ms + wait_ms,
            wait_ms=wait_ms,
            last_error=error[:ERROR_CHARACTERS_MAX],
        )
        self._failing.put(server, state)
        return state

    def restore(self, server: ServerName, state: Backoff) -> None:
        """Takes a state up that was kept over a restart."""
        self._failing.setdefault(server, state)

    def succeeded(self, server: ServerName) -> None:
        """Records that the server answered a request, or made an authenticated one itself."""
        self._reachable.put(server, None)
        if self._failing.pop(server) is not None:
            for listener in self._listeners:
                listener(server)

    def on_recovered(self, listener: Callable[[ServerName], None]) -> None:
        """Registers `listener`, called whenever a failing server shows a sign of life."""
        self._listeners.append(listener)
