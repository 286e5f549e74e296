"""The real time, for `federation.ports.Clock`; tests hand in a clock that jumps."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The machine's clocks and the event loop's sleep."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits; other tasks go on."""
        await asyncio.sleep(seconds)
