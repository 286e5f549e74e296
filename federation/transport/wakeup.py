"""Waits for a signal, for a bounded time, by a given clock."""

from __future__ import annotations

import asyncio

from federation.ports import Clock


class Wakeup:
    """Set by many, waited for by one task. Setting it while nobody waits is kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._is_set = False
        self._over = asyncio.Event()

    def set(self) -> None:
        """Wakes the waiting task, or the next one to wait."""
        self._is_set = True
        self._over.set()

    async def wait(self, seconds: float) -> bool:
        """Waits until set, at most `seconds`; says whether it was set, and clears it."""
        if not self._is_set and seconds > 0:
            self._over.clear()
            async with asyncio.TaskGroup() as group:
                alarm = group.create_task(self._ring_after(seconds))
                await self._over.wait()
                alarm.cancel()
        was_set, self._is_set = self._is_set, False
        return was_set

    async def _ring_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._over.set()
