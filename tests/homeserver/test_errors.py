"""Refusals that the server makes itself: status, code and the time to wait."""

from homeserver import limits
from homeserver.errors import not_found, unavailable


def test_what_is_away_says_when_to_try_again() -> None:
    """The body is for Matrix clients, the header for all others; both say the same time."""
    refused = unavailable("the database is away")
    wait_s = limits.UNAVAILABLE_RETRY_AFTER_S
    assert (refused.status, refused.errcode) == (503, "M_UNKNOWN")
    assert refused.extra == {"retry_after_ms": wait_s * 1000}
    assert refused.headers == {"Retry-After": str(wait_s)}


def test_the_time_to_wait_can_be_given() -> None:
    assert unavailable("a policy server is away", retry_after_s=9).extra["retry_after_ms"] == 9_000


def test_what_is_not_there_is_not_tried_again() -> None:
    assert not_found("no such room").extra == {}
