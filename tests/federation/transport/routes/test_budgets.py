"""Bytes under way: each has a share, all have a bound, and what ends is given back."""

from __future__ import annotations

import pytest

from federation.causes import address_cause
from federation.errors import MatrixError
from federation.limits import BYTES_RETRY_AFTER_MS
from federation.transport.routes.budgets import ByteBudget

A, B, C = (address_cause(f"192.0.2.{number}") for number in range(3))


def test_each_has_a_share_and_all_have_a_bound() -> None:
    budget = ByteBudget(total_max=25, each_max=10)
    with budget.use(A) as a, budget.use(B) as b, budget.use(C) as c:
        a(10)
        with pytest.raises(MatrixError) as own:
            a(1)
        assert (own.value.status, own.value.errcode) == (429, "M_LIMIT_EXCEEDED")
        b(10)
        c(5)
        with pytest.raises(MatrixError) as others:
            c(1)
        assert others.value.status == 503
        for one in (own, others):
            assert one.value.extra == {"retry_after_ms": BYTES_RETRY_AFTER_MS}


def test_what_ended_is_given_back_even_if_it_was_refused() -> None:
    budget = ByteBudget(total_max=10, each_max=10)
    for _ in range(3):
        with budget.use(A) as take:
            take(10)
            with pytest.raises(MatrixError):
                take(1)
    with budget.use(A) as take:
        take(10)
