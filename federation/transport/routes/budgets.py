"""Budgets for bytes of bodies under way at once: in all, and for each sender.

What doesn't fit is refused, to be sent again: 429 where the sender itself has too much under way,
503 where others have. Nothing waits, so slow senders can't hold anything up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from federation.causes import Cause
from federation.errors import MatrixError
from federation.limits import BYTES_RETRY_AFTER_MS

Take = Callable[[int], None]
"""Counts so many bytes more; raises MatrixError when they don't fit."""

_AGAIN = {"retry_after_ms": BYTES_RETRY_AFTER_MS}


class ByteBudget:
    """Counts bytes for as long as they are in memory."""

    def __init__(self, total_max: int, each_max: int) -> None:
        self._total_max, self._each_max = total_max, each_max
        self._total = 0
        self._of: Counter[Cause] = Counter()

    @contextmanager
    def use(self, cause: Cause) -> Iterator[Take]:
        """Counts one body; its bytes are given back at the end of the block."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self._of[cause] + count > self._each_max:
                raise MatrixError(429, "M_LIMIT_EXCEEDED", "too many bytes at once", extra=_AGAIN)
            if self._total + count > self._total_max:
                raise MatrixError(
                    503, "M_UNKNOWN", "too much is under way, send it again", extra=_AGAIN
                )
            taken += count
            self._of[cause] += count
            self._total += count

        try:
            yield take
        finally:
            self._total -= taken
            self._of[cause] -= taken
            if not self._of[cause]:
                del self._of[cause]
