"""Steps of one reader or writer of a file, on threads.

Rules:
1. The steps are executed one after another, in the order in which they were given, whatever their
   callers do: a cancelled caller's step is still executed, so that a file isn't closed while
   another thread uses it.
2. They occupy one thread at a time, and none while there are none. A thread that finds another step
   goes on with it: most of what a step costs is the switch of threads.
3. `begin` doesn't wait for its step. Once such a step has failed no further one is executed, except
   by `end`: each fails like it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from homeserver.storage.media.blob_store import BlobStoreUnavailable

T = TypeVar("T")


class _Step(NamedTuple):
    work: Callable[[], Any]
    waiter: asyncio.Future[Any] | None
    is_last: bool


class DiskSteps:
    """The steps of one reader or writer; used on one event loop."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads, self._loop = threads, asyncio.get_running_loop()
        self._queue: deque[_Step] = deque()
        self._lock, self._is_running = Lock(), False
        self._failure: Exception | None = None
        self.are_begun = False
        """Whether there was a step."""

    async def run(self, work: Callable[[], T]) -> T:
        """Executes a step after those before it. Raises BlobStoreUnavailable for an error of the
        disk, or what the step raises."""
        waiter: asyncio.Future[T] = self._loop.create_future()
        self._put(_Step(work, waiter, is_last=False))
        return await waiter

    async def begin(self, work: Callable[[], None]) -> None:
        """Begins a step once those before it are done. Raises as `run`, for an earlier step."""
        if self._is_running:
            await self.run(_nothing)
        if self._failure is not None:
            raise self._failure
        self._put(_Step(work, None, is_last=False))

    def end(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Begins the last step, even if one before it has failed."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._put(_Step(work, waiter, is_last=True))
        return waiter

    def _put(self, step: _Step) -> None:
        with self._lock:
            if not self._is_running:
                self._threads.submit(self._work)  # raises if the store was closed
                self._is_running = True
            self._queue.append(step)
        self.are_begun = True

    # On a thread

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._is_running = False
                    return
                step = self._queue.popleft()
            self._execute(step)
            del step  # what it holds may be large, and the next one may be far

    def _execute(self, step: _Step) -> None:
        result, failure = None, None if step.is_last else self._failure
        if failure is None:
            try:
                result = step.work()
            except OSError as error:
                failure = BlobStoreUnavailable(str(error))
                failure.__cause__ = error
            except Exception as error:  # noqa: BLE001 - raised by whoever waits for it
                failure = error
        if step.waiter is None:
            self._failure = self._failure or failure
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_tell, step.waiter, result, failure)


def _tell(waiter: asyncio.Future[Any], result: object, failure: Exception | None) -> None:
    if waiter.done():
        return  # its caller was cancelled
    if failure is None:
        waiter.set_result(result)
    else:
        waiter.set_exception(failure)


def _nothing() -> None:
    """Is a step that does nothing: whoever waits for it waits for those before it."""
