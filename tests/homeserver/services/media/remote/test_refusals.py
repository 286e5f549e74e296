"""What a client is told of each failure of a fetch."""

import pytest

from federation.events.ids import ServerName
from federation.transport.requests.client import FailureKind, FederationError
from homeserver import limits
from homeserver.services.media.remote.refusals import refusal_of


@pytest.mark.parametrize(
    ("kind", "status", "errcode"),
    [
        (FailureKind.TIMEOUT, 504, "M_UNKNOWN"),
        (FailureKind.REFUSED, 502, "M_UNKNOWN"),
        (FailureKind.ADDRESS, 502, "M_UNKNOWN"),
        (FailureKind.BACKING_OFF, 502, "M_UNKNOWN"),
        (FailureKind.TOO_LARGE, 502, "M_TOO_LARGE"),
        (FailureKind.BAD_MEDIA, 502, "M_UNKNOWN"),
        (FailureKind.BUSY, 429, "M_LIMIT_EXCEEDED"),
        (FailureKind.STATUS, 502, "M_UNKNOWN"),
    ],
)
def test_a_failure_is_told_without_its_reason(kind: FailureKind, status: int, errcode: str) -> None:
    error = refusal_of(FederationError(ServerName("hs2"), kind, "10.0.0.1 is secret")).error()
    assert (error.status, error.errcode) == (status, errcode)
    assert "10.0.0.1" not in error.error


def test_whoever_is_busy_is_told_when_to_come_again() -> None:
    failure = FederationError(ServerName("hs2"), FailureKind.BUSY, "")
    error = refusal_of(failure).error()
    assert error.extra["retry_after_ms"] == limits.MEDIA_BUSY_RETRY_AFTER_MS
