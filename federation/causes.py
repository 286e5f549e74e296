"""On whose account this server works, so that what one makes it do doesn't hold up others.

The edge names the address or the user of each request, the authentication of federation the server
that signed it, the inbox the origin of the event that it works on. Work without a cause is this
server's own. The cause goes with the task that it was set in, and with those that the task starts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum

_IPV6_NETWORK_BITS = 64  # one host has at least so many addresses


class CauseKind(Enum):
    """What is known of who caused a piece of work."""

    ADDRESS = "address"
    """Somebody who isn't authenticated: `name` is the network address."""
    SERVER = "server"
    """Another server, authenticated."""
    USER = "user"
    """A user of ours."""
    OWN = "own"
    """Nobody: work that this server does of itself."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Who caused it."""

    kind: CauseKind
    name: str = ""


OWN_WORK = Cause(CauseKind.OWN)
_CAUSE: ContextVar[Cause] = ContextVar("cause", default=OWN_WORK)


def address_cause(address: str) -> Cause:
    """The cause behind a network address: an IPv6 host may use any of its /64."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return Cause(CauseKind.ADDRESS, address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return Cause(CauseKind.ADDRESS, str(ip.ipv4_mapped))
        network = ipaddress.ip_network((ip, _IPV6_NETWORK_BITS), strict=False)
        return Cause(CauseKind.ADDRESS, str(network))
    return Cause(CauseKind.ADDRESS, str(ip))


def current_cause() -> Cause:
    """The cause of what is being done."""
    return _CAUSE.get()


@contextmanager
def caused_by(cause: Cause) -> Iterator[None]:
    """What is done in the block has that cause."""
    token = _CAUSE.set(cause)
    try:
        yield
    finally:
        _CAUSE.reset(token)
