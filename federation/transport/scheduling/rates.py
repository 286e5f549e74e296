"""How often one cause may do a thing that costs: token buckets, in memory and bounded.

A bucket holds up to `burst` tokens and gains `per_s`; each use takes one. Past the bound of the
table the bucket that was used longest ago is dropped, which fills it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

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
        self._buckets: OrderedDict[Cause, _Bucket] = OrderedDict()

    def take(self, cause: Cause) -> float:
        """Takes a token: 0.0. Where there is none, how many seconds there will be none."""
        now_s = self._clock.monotonic_s()
        bucket = self._buckets.pop(cause, None) or _Bucket(self._burst, now_s)
        gained = max(0.0, now_s - bucket.at_s) * self._per_s
        tokens = min(self._burst, bucket.tokens + gained)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._per_s
        self._buckets[cause] = _Bucket(tokens - 1 if tokens >= 1 else tokens, now_s)
        while len(self._buckets) > RATE_BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return wait_s
