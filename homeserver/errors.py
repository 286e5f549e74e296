"""The usual refusals of clients' requests, by the spec's codes.

Spec: client-server API, "Standard error response".
"""

from __future__ import annotations

from federation.errors import MatrixError
from homeserver import limits


def bad_json(error: str) -> MatrixError:
    """400 M_BAD_JSON: JSON, but not of the shape that is asked for."""
    return MatrixError(400, "M_BAD_JSON", error)


def not_json(error: str) -> MatrixError:
    """400 M_NOT_JSON: no JSON at all."""
    return MatrixError(400, "M_NOT_JSON", error)


def invalid_param(error: str) -> MatrixError:
    """400 M_INVALID_PARAM: a parameter has a value that it can't have."""
    return MatrixError(400, "M_INVALID_PARAM", error)


def missing_param(error: str) -> MatrixError:
    """400 M_MISSING_PARAM: a required parameter isn't there."""
    return MatrixError(400, "M_MISSING_PARAM", error)


def missing_token() -> MatrixError:
    """401 M_MISSING_TOKEN: the request has no access token."""
    return MatrixError(401, "M_MISSING_TOKEN", "Missing access token")


def forbidden(error: str) -> MatrixError:
    """403 M_FORBIDDEN."""
    return MatrixError(403, "M_FORBIDDEN", error)


def user_locked() -> MatrixError:
    """401 M_USER_LOCKED: the account is locked; the session stays (spec: "Account locking")."""
    return MatrixError(
        401, "M_USER_LOCKED", "This account has been locked", extra={"soft_logout": True}
    )


def user_suspended() -> MatrixError:
    """403 M_USER_SUSPENDED (spec: "Account suspension")."""
    return MatrixError(403, "M_USER_SUSPENDED", "You cannot perform this action while suspended.")


def exclusive(error: str) -> MatrixError:
    """400 M_EXCLUSIVE: a name that an application service alone may make, or one of others."""
    return MatrixError(400, "M_EXCLUSIVE", error)


def not_found(error: str) -> MatrixError:
    """404 M_NOT_FOUND."""
    return MatrixError(404, "M_NOT_FOUND", error)


def duplicate_annotation() -> MatrixError:
    """400 M_DUPLICATE_ANNOTATION: the user sent the same annotation of the event before."""
    return MatrixError(400, "M_DUPLICATE_ANNOTATION", "You have sent this annotation before")


def too_large(error: str) -> MatrixError:
    """413 M_TOO_LARGE: the request, or the event it would make, is too large."""
    return MatrixError(413, "M_TOO_LARGE", error)


def unavailable(
    error: str, *, retry_after_s: int = limits.UNAVAILABLE_RETRY_AFTER_S
) -> MatrixError:
    """503: the database or the room can't be reached now; nothing was stored."""
    return MatrixError(
        503,
        "M_UNKNOWN",
        error,
        extra={"retry_after_ms": retry_after_s * 1000},
        headers={"Retry-After": str(retry_after_s)},
    )
