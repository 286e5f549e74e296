"""The hosts of web addresses, looked up by ourselves.

Whether their addresses may be connected to is checked by the dialer, as for any other endpoint; no
override gives permission.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from federation.https_urls import HttpsUrl
from federation.transport.acl import ip_of
from federation.transport.requests.dialer import Endpoint

Lookup = Callable[[str], Awaitable[tuple[str, ...]]]
"""Addresses of a host name; raises OSError where there are none."""


async def find_endpoint(url: HttpsUrl, lookup: Lookup) -> Endpoint:
    """Returns where the host of a URL is. Raises OSError where it has no address."""
    literal = ip_of(url.host)
    addresses = (literal,) if literal is not None else await lookup(url.host)
    return Endpoint(addresses, url.port, url.authority, literal or url.host)
