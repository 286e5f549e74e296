"""Failures of joins and the like: the error for the client, and possible effects nevertheless.

Spec: server-server API, "Joining Rooms" (the error responses of make_join and send_join).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from federation.events.ids import ServerName
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


class JoiningFailed(Exception):
    """All servers refused or failed. `status` and `errcode` are a resident's refusal where there
    was one (to be passed on to the client), else 502 M_UNKNOWN. `uncertain` are servers that may
    have taken the event all the same: they have it, but gave no answer that can be used."""

    def __init__(
        self,
        status: int,
        errcode: str,
        error: str,
        extra: Mapping[str, object] | None = None,
        *,
        uncertain: Sequence[ServerName] = (),
    ) -> None:
        super().__init__(f"{status} {errcode}: {error}")
        self.uncertain = tuple(uncertain)
        self.status, self.errcode, self.error = status, errcode, error
        self.extra: Mapping[str, object] = extra or {}


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


def worst_of(failures: Sequence[FederationError | Unusable]) -> JoiningFailed:
    """Returns the most telling failure: a refusal about the request, before what only says that a
    server is down or doesn't know the room."""
    uncertain = [one.server for one in failures if isinstance(one, Uncertain)]
    refusals = [one for one in failures if isinstance(one, FederationError) and is_refusal(one)]
    if refusals:
        told = max(refusals, key=lambda one: (one.errcode != "M_NOT_FOUND", one.status == 403))
        extra = {"room_version": told.body["room_version"]} if "room_version" in told.body else {}
        said = told.body.get("error")
        text = said[:500] if isinstance(said, str) else "The other server refused"
        errcode = told.errcode if told.errcode in _PASSED_ON else "M_FORBIDDEN"
        return JoiningFailed(told.status or 502, errcode, text, extra, uncertain=uncertain)
    told_of = (_told(one) if isinstance(one, FederationError) else str(one) for one in failures)
    detail = "; ".join(told_of)[:500] or "no server to ask"
    error = f"No server could help: {detail}"
    return JoiningFailed(502, "M_UNKNOWN", error, uncertain=uncertain)


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
