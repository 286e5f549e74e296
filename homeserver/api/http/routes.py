"""The table of routes.

Each `api/<noun>.py` has a class with handlers as methods and a method `routes`; `app` joins the
lists with `table`, which refuses duplicate routes.

Rules:
1. A template is a path whose parts in braces are parameters: `/rooms/{roomId}/send/{eventType}`.
   Literal parts win over parameters.
2. `v3` and `v1` put the client-server API's prefix in front; some media have one of their own.
   `table` adds the path below `r0`, the prefix before v1.1, for operations that existed there:
   older clients and bots still use it.
3. `limit` names the token bucket that a request draws from (`rules.accounts.rate_limits`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from homeserver import limits
from homeserver.api.http.request import Request
from homeserver.api.http.response import Result
from homeserver.rules.accounts.rate_limits import Limit

_V3 = "/_matrix/client/v3"
_BEFORE_V1_1 = {_V3: "/_matrix/client/r0", "/_matrix/media/v3": "/_matrix/media/r0"}
"""The prefixes of v1.1, and those before."""

SINCE_V1_1 = frozenset(
    {
        "GET /login/sso/redirect",
        "GET /login/sso/redirect/{idpId}",
        "DELETE /profile/{userId}/{keyName}",
        "POST /refresh",
        "POST /rooms/{roomId}/report",
        "POST /users/{userId}/report",
        "POST /room_keys/version",
        "GET /room_keys/version",
        "GET /room_keys/version/{version}",
        "PUT /room_keys/version/{version}",
        "DELETE /room_keys/version/{version}",
        "PUT /room_keys/keys",
        "PUT /room_keys/keys/{roomId}",
        "PUT /room_keys/keys/{roomId}/{sessionId}",
        "GET /room_keys/keys",
        "GET /room_keys/keys/{roomId}",
        "GET /room_keys/keys/{roomId}/{sessionId}",
        "DELETE /room_keys/keys",
        "DELETE /room_keys/keys/{roomId}",
        "DELETE /room_keys/keys/{roomId}/{sessionId}",
        "POST /keys/device_signing/upload",
        "POST /keys/signatures/upload",
        "POST /knock/{roomIdOrAlias}",
        "PUT /upload/{serverName}/{mediaId}",
    }
)
"""Operations below v3 that r0 never had."""

Handler: TypeAlias = Callable[[Request], Awaitable[Result]]


class Auth(Enum):
    """Whether a route requires an access token."""

    USER = "user"
    NONE = "none"
    OPTIONAL = "optional"
    APPSERVICE = "appservice"
    """No token is needed. An application service's counts; any other is passed over."""


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `guests` says that a guest's token is enough; `suspended` that it is open to
    suspended users, as every GET is; `locked` likewise for locked ones. `lapsed`: a token without a
    holder reaches the handler (`Request.lapsed_token`). `waits`: the answer may take long, so the
    token is checked again before it is sent. `body_bytes` bounds the body."""

    method: str
    template: str
    handler: Handler
    auth: Auth = Auth.USER
    limit: Limit | None = None
    guests: bool = False
    suspended: bool = False
    locked: bool = False
    lapsed: bool = False
    waits: bool = False
    body_bytes: int = limits.CLIENT_BODY_BYTES

    @property
    def is_open_to_suspended(self) -> bool:
        """Returns whether suspended users may use it: they may read everything that they could."""
        return self.suspended or self.method == "GET"


def v3(path: str) -> str:
    """Returns the template of an operation below `/_matrix/client/v3`."""
    return _V3 + path


def v1(path: str) -> str:
    """Returns the template of an operation below `/_matrix/client/v1`."""
    return f"/_matrix/client/v1{path}"


def before_v1_1(route: Route) -> Route | None:
    """Returns the route below the prefix `r0` of an operation that existed before v1.1."""
    for prefix, older in _BEFORE_V1_1.items():
        path = route.template.removeprefix(prefix)
        if path != route.template and f"{route.method} {path}" not in SINCE_V1_1:
            return replace(route, template=older + path)
    return None


def table(parts: Iterable[Sequence[Route]]) -> list[Route]:
    """Returns all routes in one list. Raises ValueError if two have the same method and
    template.
    """
    routes = [route for part in parts for route in part]
    routes += [older for route in routes if (older := before_v1_1(route)) is not None]
    seen: set[tuple[str, str]] = set()
    for route in routes:
        if (key := (route.method, route.template)) in seen:
            raise ValueError(f"two routes for {route.method} {route.template}")
        seen.add(key)
    return routes
