"""Web addresses that servers and users name, of places that this server sends requests to.

Only `https`, without a user, for a host that can be found under its name; all of it is printable
ASCII without blanks, as the target goes out byte for byte. Whether its addresses may be connected
to is checked by whoever connects.

Spec: server-server API, "Resolving server names" (redirects), "Content Repository" (`Location`);
client-server API, POST /pushers/set (`url`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from federation.events.ids import is_reachable_name

_PORT: Final = 443
_PRINTABLE: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class HttpsUrl:
    """A URL: a host name in lower case or an IP literal (without brackets), a port, and the target
    of a request: path and query."""

    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Returns host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORT else f"{host}:{self.port}"


def parse_https_url(text: str) -> HttpsUrl:
    """Parses a URL; a fragment is left out. Raises ValueError for one that isn't asked for."""
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise ValueError("not an https URL")
    if not _PRINTABLE.fullmatch(text) or not is_reachable_name(parts.netloc):
        raise ValueError("not a URL that can be asked for")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HttpsUrl(parts.hostname, parts.port or _PORT, target)
