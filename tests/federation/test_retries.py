"""Waits that double: their first, their longest, and any number of failures."""

import pytest

from federation.retries import DoublingWaits

WAITS = DoublingWaits(2.0, 30.0)


def test_waits_double_up_to_the_longest() -> None:
    """The first failure has the first wait; the longest one isn't passed, nor missed."""
    assert [WAITS.after(failures) for failures in range(1, 8)] == [2, 4, 8, 16, 30, 30, 30]


def test_each_wait_follows_from_the_one_before() -> None:
    """A user that keeps the wait has the same ones as a user that counts failures."""
    waits: list[float] = [WAITS.following(None)]
    for _ in range(6):
        waits.append(WAITS.following(waits[-1]))
    assert waits == [WAITS.after(failures) for failures in range(1, 8)]


def test_any_number_of_failures_has_a_wait() -> None:
    """Years of failures don't overflow."""
    assert WAITS.after(1_000_000) == WAITS.longest


def test_the_longest_wait_may_be_a_doubling_of_the_first() -> None:
    """The step at which both agree."""
    assert [DoublingWaits(5, 20).after(failures) for failures in (1, 2, 3, 4)] == [5, 10, 20, 20]


@pytest.mark.parametrize(("first", "longest"), [(0, 1), (-1, 1), (2, 1)])
def test_waits_that_never_grow_are_refused(first: float, longest: float) -> None:
    """A wait of nothing would be tried without a pause."""
    with pytest.raises(AssertionError):
        DoublingWaits(first, longest)


def test_no_wait_comes_before_the_first_failure() -> None:
    """The count begins at 1."""
    with pytest.raises(AssertionError):
        WAITS.after(0)
