"""Cross-origin headers: web clients come from other origins than their homeserver.

Spec: client-server API, "Web Browser Clients".
"""

from __future__ import annotations

from multidict import CIMultiDict

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
    "Access-Control-Max-Age": "86400",
}


class ClientHeaders:
    """The headers of an answer to a client; each answer gets a copy of its own."""

    def __init__(self) -> None:
        self._template = CIMultiDict({**_CORS, "Server": "Freehold"})
        self._template.pop("Access-Control-Max-Age")
        self._preflight = CIMultiDict({**_CORS, "Server": "Freehold"})

    def answer(self) -> CIMultiDict[str]:
        """Returns the headers of a response to a request."""
        return self._template.copy()

    def preflight(self) -> CIMultiDict[str]:
        """Returns the headers of a response to OPTIONS, which a browser may cache for a day."""
        return self._preflight.copy()
