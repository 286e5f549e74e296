"""Token buckets: a burst, then one by one; each cause for itself."""

import pytest

from federation.causes import Cause, CauseKind
from federation.limits import RATE_BUCKETS_MAX
from federation.transport.scheduling.rates import RateLimit
from tests.federation.transport.memory_ports import JumpingClock


def address(number: int) -> Cause:
    return Cause(CauseKind.ADDRESS, str(number))


def test_a_burst_and_then_as_many_as_come_back() -> None:
    clock = JumpingClock()
    limit = RateLimit(clock, per_s=0.5, burst=3)
    assert [limit.take(address(1)) for _ in range(3)] == [0.0] * 3
    assert limit.take(address(1)) == pytest.approx(2.0)
    assert limit.take(address(2)) == 0.0
    clock.jump(1.0)
    assert limit.take(address(1)) == pytest.approx(1.0)
    clock.jump(1.0)
    assert limit.take(address(1)) == 0.0
    clock.jump(1_000.0)
    assert [limit.take(address(1)) > 0 for _ in range(4)] == [False] * 3 + [True]


def test_a_large_use_needs_one_token_and_owes_the_others() -> None:
    clock = JumpingClock()
    limit = RateLimit(clock, per_s=2, burst=10)
    assert limit.take(address(1), 9) == 0.0
    assert limit.take(address(1), 20) == 0.0
    assert limit.take(address(1), 1) == pytest.approx(10.0)
    clock.jump(9.0)
    assert limit.take(address(1), 1) == pytest.approx(1.0), "a refusal takes nothing"
    clock.jump(1.0)
    assert limit.take(address(1), 1) == 0.0


def test_a_look_takes_nothing_and_what_was_not_used_can_be_given_back() -> None:
    clock = JumpingClock()
    limit = RateLimit(clock, per_s=0.5, burst=2)
    assert [limit.wait_s(address(1)) for _ in range(5)] == [0.0] * 5
    assert [limit.take(address(1)) for _ in range(3)] == [0.0, 0.0, pytest.approx(2.0)]
    assert limit.wait_s(address(1)) == pytest.approx(2.0)
    limit.give_back(address(1))
    assert limit.wait_s(address(1)) == 0.0
    for _ in range(5):
        limit.give_back(address(1))
    assert [limit.take(address(1)) > 0 for _ in range(3)] == [False, False, True]


def test_the_table_is_bounded_by_dropping_the_longest_unused() -> None:
    limit = RateLimit(JumpingClock(), per_s=1, burst=1)
    for number in range(RATE_BUCKETS_MAX):
        limit.take(address(number))
    assert limit.take(address(0)) > 0, "used again, so 1 is the oldest"
    limit.take(address(RATE_BUCKETS_MAX))
    assert limit.take(address(0)) > 0
    assert limit.take(address(1)) == 0.0, "forgotten"
