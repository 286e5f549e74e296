"""The steps of a stop.

Rules:
1. All steps share one time, which begins with the first: a stop takes under 5 s, also if the
   database stalls.
2. A step that takes too long, or needs a database that is unavailable, is given up and logged; the
   later steps still get a moment each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from homeserver import limits
from homeserver.storage.database import DatabaseUnavailable

_log = logging.getLogger(__name__)


class Shutdown:
    """Runs the steps of one stop."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    async def step(self, step: Callable[[], Awaitable[None]]) -> None:
        """Runs one step, or gives it up (rule 2)."""
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + limits.STOP_S
        try:
            async with asyncio.timeout_at(
                max(self._deadline, loop.time() + limits.STOP_STEP_S_MIN)
            ):
                await step()
        except (TimeoutError, DatabaseUnavailable) as error:
            name = getattr(step, "__qualname__", "a step")
            _log.warning("stopping: %s was given up: %s", name, error)
