"""Web addresses that other servers name: checked, and looked up by ourselves.

Rules:
1. Only `https`, without a user, for a host that can be found under its name; the target is
   printable ASCII without blanks, as it goes out byte for byte.
2. Whether its addresses may be connected to is checked by the dialer, as for any other endpoint;
   no override gives permission.

Spec: server-server API, "Resolving server names" (redirects), "Content Repository" (`Location`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from federation.events.ids import is_reachable_name
from federation.transport.acl import ip_of
from federation.transport.requests.dialer import Endpoint

_PORT: Final = 443
_PRINTABLE: Final = re.compile(r"[!-~]+")

Lookup = Callable[[str], Awaitable[tuple[str, ...]]]
"""Addresses of a host name; raises OSError where there are none."""


@dataclass(frozen=True, slots=True)
class WebUrl:
    """A URL to be followed. `authority` is host and port as given, `target` path and query."""

    host: str
    port: int
    authority: str
    target: str

    async def find(self, lookup: Lookup) -> Endpoint:
        """Returns where its host is. Raises OSError where it has no address."""
        literal = ip_of(self.host)
        addresses = (literal,) if literal is not None else await lookup(self.host)
        return Endpoint(addresses, self.port, self.authority, literal or self.host)


def parse_url(text: str) -> WebUrl:
    """Parses a URL. Raises ValueError for one that isn't followed."""
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise ValueError("not an https URL")
    if not _PRINTABLE.fullmatch(text) or not is_reachable_name(parts.netloc):
        raise ValueError("not a URL that can be asked for")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebUrl(parts.hostname, parts.port or _PORT, parts.netloc, target)
