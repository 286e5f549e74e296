"""The slowest pace of a long transfer, over its whole length.

A transfer that is a little faster than each of its time-outs could last for days, and hold a place
for as long. What waits for the other side has patience for so many seconds. Each second of waiting
takes one, each byte gives some back: the other side may pause, or be slow for a while, but not
slower than a rate for long. A fast beginning is no credit for later.
"""

from __future__ import annotations


class TooSlow(TimeoutError):
    """The other side is slower than the pace."""


class Pace:
    """The patience that is left with the other side of one transfer."""

    def __init__(self, *, bytes_per_s: float, patience_s: float) -> None:
        self._bytes_per_s, self._patience_s = bytes_per_s, patience_s
        self._left_s = patience_s

    def note(self, count: int, waited_s: float) -> None:
        """Notes that so many bytes took the other side so long. Raises TooSlow."""
        left_s = self._left_s - waited_s + count / self._bytes_per_s
        if left_s < 0:
            raise TooSlow(f"slower than {self._bytes_per_s:.0f} bytes a second")
        self._left_s = min(self._patience_s, left_s)
