"""What a client is told where another server's media can't be had.

Rules:
1. Media that are missing, too large or not there yet are told as such; of other failures a client
   isn't told the reason.
2. `is_lasting` is what asking again soon would not change.

Spec: client-server API, "Content Repository" and the security considerations there.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.errors import MatrixError
from federation.transport.requests.client import FailureKind, FederationError
from homeserver import limits


@dataclass(frozen=True, slots=True)
class MediaRefusal:
    """What a client is told."""

    status: int
    errcode: str
    text: str
    is_lasting: bool = False
    retry_after_ms: int | None = None

    def error(self) -> MatrixError:
        """Returns it as an error."""
        extra = None if self.retry_after_ms is None else {"retry_after_ms": self.retry_after_ms}
        return MatrixError(self.status, self.errcode, self.text, extra=extra)


_MISSING = MediaRefusal(404, "M_NOT_FOUND", "There is no such media", is_lasting=True)
_TOO_LARGE = MediaRefusal(502, "M_TOO_LARGE", "The media are too large", is_lasting=True)
_NOT_YET = MediaRefusal(504, "M_NOT_YET_UPLOADED", "The content hasn't been uploaded yet")
_INVALID = MediaRefusal(502, "M_UNKNOWN", "The other server's answer isn't media", is_lasting=True)
_SLOW = MediaRefusal(504, "M_UNKNOWN", "The other server didn't answer in time")
_AWAY = MediaRefusal(502, "M_UNKNOWN", "The other server could not be asked")
BUSY = MediaRefusal(
    429,
    "M_LIMIT_EXCEEDED",
    "Too many requests to other servers",
    retry_after_ms=limits.MEDIA_BUSY_RETRY_AFTER_MS,
)


def refusal_of(error: FederationError) -> MediaRefusal:
    """Returns what to tell of a failed fetch."""
    match error.kind:
        case FailureKind.STATUS:
            return _refusal_of_status(error.status or 0, error.errcode)
        case FailureKind.TOO_LARGE:
            return _TOO_LARGE
        case FailureKind.BAD_MEDIA:
            return _INVALID
        case FailureKind.TIMEOUT:
            return _SLOW
        case FailureKind.BUSY:
            return BUSY
        case _:
            return _AWAY


def _refusal_of_status(status: int, errcode: str) -> MediaRefusal:
    if errcode == "M_NOT_YET_UPLOADED":
        return _NOT_YET
    if errcode == "M_TOO_LARGE":
        return _TOO_LARGE
    is_final = 400 <= status < 500 and status not in (401, 408, 429)
    return _MISSING if is_final else _AWAY
