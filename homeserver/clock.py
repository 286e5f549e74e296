"""The real time, for `federation.ports.Clock`; tests use a clock that they control."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The machine's clocks and the event loop's sleep."""

    def now_ms(self) -> int:
        """Returns milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Returns seconds that never go backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits; other tasks continue."""
        await asyncio.sleep(seconds)
