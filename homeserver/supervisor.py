"""The parent of every long-lived task, and the only module that creates tasks.

Rules:
1. A task that fails is logged (its traceback a few times in a row), counted and started again after
   a back-off that doubles up to a minute and starts over once the task ran for that long; the other
   tasks continue.
2. A task that returns isn't started again.
3. `stop` cancels all tasks and waits for them, for a bounded time; after it nothing is spawned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from federation.ports import Clock
from federation.retries import DoublingWaits
from homeserver import limits
from homeserver.metrics import ServerMetrics

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs coroutines as named tasks until `stop`."""

    def __init__(self, clock: Clock, metrics: ServerMetrics) -> None:
        self._clock, self._metrics = clock, metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    def spawn(self, name: str, factory: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts a long-lived task; `factory` creates its coroutine, once for each (re)start."""
        self._start(name, self._keep_running(name, factory))

    def run_once(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        """Starts a task that isn't restarted when it fails: failures are only logged and
        counted.
        """
        if self._is_stopping:
            coroutine.close()
            return
        self._start(name, self._run_once(name, coroutine))

    async def stop(self) -> None:
        """Cancels every task and waits until they ended, at most `SUPERVISOR_STOP_S`."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=limits.SUPERVISOR_STOP_S)
            for task in pending:
                _log.error("task %s doesn't end", task.get_name())

    def _start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._is_stopping:
            coroutine.close()
            return
        # A context of its own: the task isn't part of the request that happened to need it first.
        task = asyncio.get_running_loop().create_task(coroutine, name=name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_running(
        self, name: str, factory: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        waits = DoublingWaits(limits.RESTART_WAIT_S_LEAST, limits.RESTART_WAIT_S_MOST)
        wait_s, failures = waits.first, 0
        while True:
            started_s = self._clock.monotonic_s()
            if await self._is_done(name, factory(), failures):
                return
            failures += 1
            if self._clock.monotonic_s() - started_s > limits.RESTART_WAIT_S_MOST:
                wait_s, failures = waits.first, 1
            await self._clock.sleep(wait_s)
            wait_s = waits.following(wait_s)

    async def _run_once(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        await self._is_done(name, coroutine, 0)

    async def _is_done(
        self, name: str, coroutine: Coroutine[Any, Any, None], failures: int
    ) -> bool:
        """Returns whether the task is done; `failures`: how often in a row it failed before."""
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001 - the one place where bugs of tasks end
            is_new = failures < limits.RESTART_TRACES
            _log.error("task %s failed: %r", name, error, exc_info=error if is_new else None)
            self._metrics.task_failures.inc(name)
            return False
        return True
