"""Rates of costly actions for each cause: token buckets, in memory and bounded.

A bucket holds up to `burst` tokens and gains `per_s`; each use takes one, or more. Past the bound
of the table the bucket that was used longest ago is dropped, which fills it.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.bounded_cache import BoundedCache
from federation.causes import Cause
from federation.limits import RATE_BUCKETS_MAX
from federation.ports import Clock


@dataclass(frozen=True, slots=True)
class _Bucket:
    tokens: float
    at_s: float


class RateLimit:
    """The buckets of one thing."""

    def __init__(self, clock: Clock, *, per_s: float, burst: float) -> None:
        self._clock, self._per_s, self._burst = clock, per_s, burst
        self._buckets: BoundedCache[Cause, _Bucket] = BoundedCache(RATE_BUCKETS_MAX)

    def take(self, cause: Cause, amount: float = 1.0) -> float:
        """Takes so many tokens: 0.0. Where there is none, how many seconds there will be none. One
        is enough: the others are owed, and nothing is taken until they are there."""
        now_s = self._clock.monotonic_s()
        tokens = self._tokens(cause, now_s)
        self._buckets.put(cause, _Bucket(tokens - amount if tokens >= 1 else tokens, now_s))
        return self._wait_s(tokens)

    def wait_s(self, cause: Cause) -> float:
        """Returns the result of `take`, without taking a token."""
        return self._wait_s(self._tokens(cause, self._clock.monotonic_s()))

    def give_back(self, cause: Cause) -> None:
        """Gives back a token that was not used."""
        now_s = self._clock.monotonic_s()
        tokens = min(self._burst, self._tokens(cause, now_s) + 1)
        self._buckets.put(cause, _Bucket(tokens, now_s))

    def _tokens(self, cause: Cause, now_s: float) -> float:
        bucket = self._buckets.get(cause)
        if bucket is None:
            return self._burst
        gained = max(0.0, now_s - bucket.at_s) * self._per_s
        return min(self._burst, bucket.tokens + gained)

    def _wait_s(self, tokens: float) -> float:
        return 0.0 if tokens >= 1 else (1 - tokens) / self._per_s
