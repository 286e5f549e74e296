"""Counts of running or waiting work by owner; names at zero are forgotten."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

_T = TypeVar("_T")


def lower(counter: Counter[_T], key: _T) -> None:
    """Takes one off; the key goes with the last."""
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
