"""The cause of a piece of work, so that the work of one party doesn't hold up that of others.

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
    """The kind of party that caused a piece of work."""

    ADDRESS = "address"
    """An unauthenticated party: `name` is the network address."""
    SERVER = "server"
    """Another server, authenticated."""
    USER = "user"
    """A user of ours."""
    OWN = "own"
    """This server itself."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The party that caused a piece of work."""

    kind: CauseKind
    name: str = ""


OWN_WORK = Cause(CauseKind.OWN)
_CAUSE: ContextVar[Cause] = ContextVar("cause", default=OWN_WORK)


def address_cause(address: str) -> Cause:
    """Returns the cause behind a network address: an IPv6 host may use any of its /64."""
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
    """Returns the cause of the current work."""
    return _CAUSE.get()


@contextmanager
def caused_by(cause: Cause) -> Iterator[None]:
    """Sets the cause for all that the block does."""
    token = _CAUSE.set(cause)
    try:
        yield
    finally:
        _CAUSE.reset(token)
