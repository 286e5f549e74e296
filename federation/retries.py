"""Waits between the tries of something that fails, each twice as long as the one before.

The waits have a first and a longest length, in a unit of the user's choice. Their user keeps the
number of failures in a row, or the wait before; both begin anew after a success.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2


@dataclass(frozen=True, slots=True)
class DoublingWaits:
    """A first wait, doubled with each failure up to the longest."""

    first: float
    longest: float

    def __post_init__(self) -> None:
        assert 0 < self.first <= self.longest, "a wait that can be doubled, and an end of it"

    def after(self, failures: int) -> float:
        """Return the wait after so many failures in a row, 1 or more; any number of them."""
        assert failures >= 1, "there is a wait after a failure only"
        doublings = failures - 1
        if doublings >= log2(self.longest / self.first):
            return self.longest
        return self.first * 2.0**doublings

    def following(self, wait: float | None) -> float:
        """Return the wait after a failure that followed a wait, or None for the first failure."""
        return self.first if wait is None else min(self.longest, 2 * wait)
