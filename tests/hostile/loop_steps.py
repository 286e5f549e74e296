"""What an attack costs the event loop: CPU time of its thread, callback by callback.

Time that the thread doesn't run isn't counted, so a busy machine changes the figures little.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class LoopSteps:
    """The loop's callbacks so far."""

    total_s: float = 0.0
    longest_s: float = 0.0
    longest: str = ""
    """Whose callback the longest was."""

    def add(self, handle: asyncio.Handle, seconds: float) -> None:
        """One more callback."""
        self.total_s += seconds
        if seconds > self.longest_s:
            self.longest_s, self.longest = seconds, repr(handle)


@contextmanager
def counted_steps() -> Iterator[LoopSteps]:
    """Count the callbacks of the loop of this thread that begin and end within the block: what the
    block itself does before it waits, and at its end, is in none. What is in memory before is taken
    from the garbage collector, as a server does."""
    steps, thread, is_over = LoopSteps(), threading.get_ident(), False
    run = asyncio.Handle._run

    def counted(handle: asyncio.Handle) -> Any:
        if threading.get_ident() != thread:
            return run(handle)
        before = time.thread_time()
        try:
            return run(handle)
        finally:
            if not is_over:
                steps.add(handle, time.thread_time() - before)

    gc.collect()
    gc.freeze()
    asyncio.Handle._run = counted  # type: ignore[assignment, method-assign]
    try:
        yield steps
    finally:
        is_over = True
        asyncio.Handle._run = run  # type: ignore[method-assign]
        gc.unfreeze()
