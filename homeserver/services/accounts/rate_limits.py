"""Keeps the token buckets of users and addresses, in memory and bounded.

A restart fills all buckets. Beyond `RATE_LIMIT_BUCKETS` the bucket that was used longest ago goes:
filling the table takes requests from as many addresses.
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.bounded_cache import BoundedCache
from federation.errors import MatrixError
from federation.ports import Clock
from homeserver import limits
from homeserver.config import RateLimitSettings
from homeserver.rules.accounts.rate_limits import Bucket, Limit, Rate, give_back, take


class RateLimiter:
    """Refuses requests over a rate. Limits without an entry in `rates` are not enforced."""

    def __init__(self, clock: Clock, rates: Mapping[Limit, Rate]) -> None:
        self._clock, self._rates = clock, rates
        self._buckets: BoundedCache[tuple[Limit, str], Bucket] = BoundedCache(
            limits.RATE_LIMIT_BUCKETS
        )

    def check(self, limit: Limit, key: str) -> None:
        """Takes a token from a user's or address's bucket. Raises 429 M_LIMIT_EXCEEDED with
        `retry_after_ms` and Retry-After if there is none."""
        if (rate := self._rates.get(limit)) is None:
            return
        taken = take(self._buckets.get((limit, key)), rate, self._clock.monotonic_s())
        self._buckets.put((limit, key), taken.bucket)
        if taken.wait_s > 0:
            raise limit_exceeded(taken.wait_s)

    def give_back(self, limit: Limit, key: str) -> None:
        """Returns a token that was taken for an operation that didn't happen."""
        rate, bucket = self._rates.get(limit), self._buckets.get((limit, key))
        if rate is not None and bucket is not None:
            self._buckets.put((limit, key), give_back(bucket, rate))


def configured_rates(settings: RateLimitSettings) -> dict[Limit, Rate]:
    """Returns the rates to enforce; empty if limits are off."""
    if not settings.enabled:
        return {}
    rates = settings.rates()
    return {limit: Rate(rates[limit.value].per_second, rates[limit.value].burst) for limit in Limit}


def limit_exceeded(wait_s: float) -> MatrixError:
    """Returns 429 M_LIMIT_EXCEEDED (spec: "Rate limiting"), in milliseconds and in whole
    seconds."""
    return MatrixError(
        429,
        "M_LIMIT_EXCEEDED",
        "Too many requests",
        extra={"retry_after_ms": int(wait_s * 1000) + 1},
        headers={"Retry-After": str(int(wait_s) + 1)},
    )
