"""Possible effects of a failed exchange."""

from __future__ import annotations

import pytest

from federation.events.ids import ServerName
from federation.limits import ERROR_CHARACTERS_MAX
from federation.transport.joining.failures import (
    JoiningUncertain,
    Uncertain,
    Unusable,
    sent_to,
    worst_of,
)
from federation.transport.requests.client import FailureKind, FederationError

THERE = ServerName("there.example")
_UNSENT = {"refused", "certificate", "address", "unresolved", "backing_off", "busy"}


@pytest.mark.parametrize("kind", [k for k in FailureKind if k is not FailureKind.STATUS])
def test_a_server_that_got_the_event_may_have_taken_it(kind: FailureKind) -> None:
    failure = FederationError(THERE, kind, "no")
    with pytest.raises((FederationError, Unusable)) as caught, sent_to(THERE):
        raise failure
    assert isinstance(caught.value, Uncertain) == (kind.value not in _UNSENT)
    assert isinstance(caught.value, FederationError | Unusable)
    told = worst_of([caught.value])
    uncertain = told.servers if isinstance(told, JoiningUncertain) else ()
    assert uncertain == (() if kind.value in _UNSENT else (THERE,))


@pytest.mark.parametrize(
    ("status", "is_uncertain"), [(302, True), (400, False), (499, False), (500, True), (504, True)]
)
def test_a_refusal_says_that_it_was_not_taken(status: int, is_uncertain: bool) -> None:
    with pytest.raises((FederationError, Unusable)) as caught, sent_to(THERE):
        raise FederationError(THERE, FailureKind.STATUS, "no", status=status)
    assert isinstance(caught.value, Uncertain) == is_uncertain


def test_clients_are_not_told_where_a_server_was_looked_for() -> None:
    failure = FederationError(THERE, FailureKind.TIMEOUT, "connecting to 10.0.0.5:8448")
    with pytest.raises(Uncertain) as caught, sent_to(THERE):
        raise failure
    for one in (failure, caught.value):
        error = worst_of([one]).error
        assert "there.example" in error
        assert "timeout" in error
        assert "10.0.0.5" not in error


def test_an_answer_that_can_not_be_used_says_nothing_of_it() -> None:
    with pytest.raises(Uncertain), sent_to(THERE):
        raise Unusable("no event")


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_so_much_of_another_servers_error_is_passed_on(more: int) -> None:
    text = "x" * (ERROR_CHARACTERS_MAX + more)
    refusal = FederationError(
        THERE, FailureKind.STATUS, "no", status=403, body={"errcode": "M_FORBIDDEN", "error": text}
    )
    assert worst_of([refusal]).error == text[:ERROR_CHARACTERS_MAX]
