"""Rates of requests from other servers: by network address until they are authenticated, then by
name.

Rules:
1. A request takes a token of its address, which is given back once its origin is authenticated:
   honest servers use none up, however many share an address; unauthenticated requests do.
2. A authenticated request takes a token of its origin. Nobody else can use these up: a name that is
   merely claimed is looked up, and takes none.
3. Both are checked before any key is looked up, and before any of the body is read; the refusal is
   429, with the time until the next attempt.

Spec: server-server API, "Request authentication"; client-server API, "Rate limiting".
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from federation.causes import Cause, CauseKind
from federation.errors import MatrixError
from federation.events.ids import ServerName
from federation.limits import (
    ORIGIN_REQUESTS_BURST,
    ORIGIN_REQUESTS_PER_S,
    UNAUTHENTICATED_REQUESTS_BURST,
    UNAUTHENTICATED_REQUESTS_PER_S,
)
from federation.ports import Clock
from federation.transport.scheduling.rates import RateLimit


class RequestRates:
    """The rates of all peers."""

    def __init__(self, clock: Clock) -> None:
        self._addresses = RateLimit(
            clock, per_s=UNAUTHENTICATED_REQUESTS_PER_S, burst=UNAUTHENTICATED_REQUESTS_BURST
        )
        self._origins = RateLimit(clock, per_s=ORIGIN_REQUESTS_PER_S, burst=ORIGIN_REQUESTS_BURST)

    def enter(self, address: Cause) -> None:
        """Counts a request from an address. Raises MatrixError."""
        _refuse_for(self._addresses.take(address))

    def check(self, claimed: Iterable[ServerName]) -> None:
        """Checks the rates of the claimed origins. Raises MatrixError."""
        for origin in claimed:
            _refuse_for(self._origins.wait_s(_cause(origin)))

    def prove(self, address: Cause, origin: ServerName) -> None:
        """Counts a request as that of its authenticated origin."""
        self._addresses.give_back(address)
        self._origins.take(_cause(origin))


def _cause(origin: ServerName) -> Cause:
    return Cause(CauseKind.SERVER, origin)


def _refuse_for(wait_s: float) -> None:
    if wait_s > 0:
        again = {"retry_after_ms": ceil(wait_s * 1000)}
        raise MatrixError(429, "M_LIMIT_EXCEEDED", "Too many requests", extra=again)
