"""Failures of joins and the like: the error for the client, and possible effects nevertheless.

Spec: server-server API, "Joining Rooms" (the error responses of make_join and send_join).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from federation.errors import MatrixError
from federation.events.ids import ServerName
from federation.limits import ERROR_CHARACTERS_MAX
from federation.transport.requests.client import FailureKind, FederationError

_PASSED_ON = frozenset(
    {
        "M_BAD_STATE",
        "M_FORBIDDEN",
        "M_INCOMPATIBLE_ROOM_VERSION",
        "M_INVITE_BLOCKED",
        "M_NOT_FOUND",
        "M_RESOURCE_LIMIT_EXCEEDED",
        "M_TOO_LARGE",
        "M_UNABLE_TO_AUTHORISE_JOIN",
        "M_UNABLE_TO_GRANT_JOIN",
        "M_UNSUPPORTED_ROOM_VERSION",
    }
)
"""Refusals that a client gets as its own. Others say something of our request to that server, or
would look like our verdict on the client's request or session (M_UNRECOGNIZED,
M_UNKNOWN_TOKEN)."""


_NOT_SENT = frozenset(
    {
        FailureKind.REFUSED,
        FailureKind.CERTIFICATE,
        FailureKind.ADDRESS,
        FailureKind.UNRESOLVED,
        FailureKind.BACKING_OFF,
        FailureKind.BUSY,
    }
)
"""Failures that say that the server has nothing of the request."""


class JoiningUncertain(MatrixError):
    """An exchange failed, but `servers` may have taken the event all the same: they have it, but
    gave no answer that can be used."""

    def __init__(self, error: MatrixError, servers: Sequence[ServerName]) -> None:
        super().__init__(error.status, error.errcode, error.error, extra=error.extra)
        self.servers = tuple(servers)


class Unusable(Exception):
    """The answer of one server can't be used; the next is tried."""


class Uncertain(Unusable):
    """A server got our signed event and may have taken it, but gave no answer that can be used."""

    def __init__(self, server: ServerName, detail: str) -> None:
        super().__init__(f"{server}: {detail}")
        self.server = server


@contextmanager
def sent_to(server: ServerName) -> Iterator[None]:
    """Guards the sending of our signed event: unless the server refuses, or can't be reached, it
    may have accepted it. Raises Uncertain in place of failures that leave this open."""
    try:
        yield
    except FederationError as error:
        status = error.status or 0
        is_refused = error.kind is FailureKind.STATUS and 400 <= status < 500
        if is_refused or error.kind in _NOT_SENT:
            raise
        raise Uncertain(server, _told(error)) from error
    except Unusable as error:
        raise Uncertain(server, str(error)) from error


def worst_of(failures: Sequence[FederationError | Unusable]) -> MatrixError:
    """Returns what the client is told: a JoiningUncertain where servers may have taken the event.

    `status` and `errcode` are those of the most telling refusal by a resident (one about the
    request, before one that only says that a server doesn't know the room), else 502 M_UNKNOWN.
    """
    told = _most_telling(failures)
    uncertain = [one.server for one in failures if isinstance(one, Uncertain)]
    return JoiningUncertain(told, uncertain) if uncertain else told


def _most_telling(failures: Sequence[FederationError | Unusable]) -> MatrixError:
    refusals = [one for one in failures if isinstance(one, FederationError) and is_refusal(one)]
    if refusals:
        told = max(refusals, key=lambda one: (one.errcode != "M_NOT_FOUND", one.status == 403))
        extra = {"room_version": told.body["room_version"]} if "room_version" in told.body else {}
        said = told.body.get("error")
        text = said[:ERROR_CHARACTERS_MAX] if isinstance(said, str) else "The other server refused"
        errcode = told.errcode if told.errcode in _PASSED_ON else "M_FORBIDDEN"
        return MatrixError(told.status or 502, errcode, text, extra=extra)
    told_of = (_told(one) if isinstance(one, FederationError) else str(one) for one in failures)
    detail = "; ".join(told_of)[:ERROR_CHARACTERS_MAX] or "no server to ask"
    return MatrixError(502, "M_UNKNOWN", f"No server could help: {detail}")


def _told(failure: FederationError) -> str:
    """Returns the error text for a client, without the addresses that were tried."""
    is_answer = failure.kind in (FailureKind.STATUS, FailureKind.BAD_JSON)
    return str(failure) if is_answer else f"{failure.server}: {failure.kind.value}"


def is_refusal(failure: FederationError) -> bool:
    """Returns whether the server refused, so that the request had no effect."""
    status = failure.status
    return (
        failure.kind is FailureKind.STATUS
        and status is not None
        and (status == 403 or (400 <= status < 500 and failure.errcode in _PASSED_ON))
    )
