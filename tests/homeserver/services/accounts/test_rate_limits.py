"""The buckets of users and addresses."""

from __future__ import annotations

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.clock import SystemClock
from homeserver.config import RateLimitSettings
from homeserver.rules.accounts.rate_limits import Limit, Rate
from homeserver.services.accounts.rate_limits import RateLimiter, configured_rates

ONE_AN_HOUR = {Limit.LOGIN: Rate(1 / 3600, 1)}


def test_each_key_has_a_bucket_of_its_own() -> None:
    limiter = RateLimiter(SystemClock(), ONE_AN_HOUR)
    limiter.check(Limit.LOGIN, "a")
    limiter.check(Limit.LOGIN, "b")
    with pytest.raises(MatrixError) as caught:
        limiter.check(Limit.LOGIN, "a")
    assert (caught.value.status, caught.value.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert caught.value.headers["Retry-After"] == "3600"
    for _ in range(5):
        limiter.check(Limit.MESSAGES, "a")


def test_the_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RATE_LIMIT_BUCKETS", 2)
    limiter = RateLimiter(SystemClock(), ONE_AN_HOUR)
    for key in ("a", "b", "c"):
        limiter.check(Limit.LOGIN, key)
    limiter.check(Limit.LOGIN, "a")
    with pytest.raises(MatrixError):
        limiter.check(Limit.LOGIN, "c")


def test_every_limit_has_a_key_in_the_configuration() -> None:
    assert set(configured_rates(RateLimitSettings())) == set(Limit)
    assert configured_rates(RateLimitSettings(enabled=False)) == {}
