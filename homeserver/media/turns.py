"""Turns at work that few may do at once: a user with much to ask doesn't hold up the others.

Rules:
1. `at_once` work at the same time. The next turn goes to the causes (users, servers) one after
   another, and within a cause to whoever waited longest.
2. Too many that wait, of one cause or in all, are refused at once (`QueueFull`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from federation.causes import Cause, current_cause


class QueueFull(Exception):
    """Too much waits already."""


@dataclass(frozen=True, slots=True)
class TurnBounds:
    """How many work at once, and how many may wait: in all, and of one cause."""

    at_once: int
    waiting: int
    waiting_of_cause: int


class Turns:
    """Hands out turns."""

    def __init__(self, bounds: TurnBounds) -> None:
        self._bounds = bounds
        self._free = bounds.at_once
        self._lines: OrderedDict[Cause, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Yields a turn for the current cause. Raises QueueFull."""
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(current_cause())
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, cause: Cause) -> None:
        line = self._lines.get(cause, deque())
        if self._waiting >= self._bounds.waiting or len(line) >= self._bounds.waiting_of_cause:
            raise QueueFull
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(cause, line).append(granted)
        self._waiting += 1
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self._pass_on()  # the turn came at the moment of the cancellation
            elif granted in line:
                self._drop(cause, granted)
            raise

    def _drop(self, cause: Cause, granted: asyncio.Future[None]) -> None:
        line = self._lines[cause]
        line.remove(granted)
        self._waiting -= 1
        if not line:
            del self._lines[cause]

    def _pass_on(self) -> None:
        """Gives the turn to the next that waits, or keeps it free."""
        while self._lines:
            cause, line = next(iter(self._lines.items()))
            granted = line[0]
            self._drop(cause, granted)
            if line:
                self._lines.move_to_end(cause)
            if not granted.done():  # else its task was cancelled a moment ago
                granted.set_result(None)
                return
        self._free += 1
