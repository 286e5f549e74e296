"""Token buckets."""

from __future__ import annotations

import pytest

from homeserver.rules.accounts.rate_limits import Bucket, Rate, take

RATE = Rate(per_second=2, burst=3)


def test_a_burst_is_free_and_then_it_waits_for_a_token() -> None:
    bucket, waits = None, []
    for _ in range(4):
        bucket, wait_s = take(bucket, RATE, 100.0)
        waits.append(wait_s)
    assert waits == [0, 0, 0, 0.5]
    assert take(bucket, RATE, 100.5).wait_s == 0


def test_a_refusal_takes_no_token() -> None:
    empty = Bucket(0.0, 100.0)
    refused = take(empty, RATE, 100.25)
    assert refused.wait_s == pytest.approx(0.25)
    assert refused.bucket == Bucket(0.5, 100.25)


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    assert take(Bucket(0.0, 0.0), RATE, 1e6).bucket.tokens == 2


def test_a_clock_that_goes_back_gives_nothing() -> None:
    assert take(Bucket(0.0, 100.0), RATE, 50.0).wait_s == 0.5
