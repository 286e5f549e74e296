"""Waiting for something to happen, but no longer than a while, by the clock that is handed in."""

from __future__ import annotations

import asyncio

from federation.ports import Clock


class Wakeup:
    """Set by many, waited for by one task. Setting it while nobody waits is kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wakes the waiting task, or the next one to wait."""
        self._event.set()

    async def wait(self, seconds: float | None) -> bool:
        """Waits until set, at most `seconds`; says whether it was set, and clears it."""
        if not self._event.is_set() and seconds != 0:
            await self._wait(seconds)
        was_set = self._event.is_set()
        self._event.clear()
        return was_set

    async def _wait(self, seconds: float | None) -> None:
        if seconds is None:
            await self._event.wait()
            return
        loop = asyncio.get_running_loop()
        waiting = {
            loop.create_task(self._event.wait()),
            loop.create_task(self._clock.sleep(seconds)),
        }
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
