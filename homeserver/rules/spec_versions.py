"""The versions of the specification that a server may name at `/versions`.

Rules:
1. A version is named if the operations that it brought are there, and those of all versions before
   it: clients infer from v1.4 that there are threads, and from v1.11 authenticated media.
2. What a server needn't be is left out: an OAuth 2.0 provider (`auth_metadata`), a policy server,
   one with single sign-on, whose endpoints are there with a provider alone.

Spec: client-server API, "API Versions"; the changelogs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

_V1, _V3 = "/_matrix/client/v1", "/_matrix/client/v3"
_RELATIONS = f"GET {_V1}/rooms/{{}}/relations/{{}}"
_MEDIA = f"GET {_V1}/media"

OPERATIONS: Final[Mapping[str, frozenset[str]]] = {
    "v1.1": frozenset(
        {
            *(f"DELETE {_V3}/room_keys/keys{rest}" for rest in ("", "/{}", "/{}/{}")),
            *(f"GET {_V3}/room_keys/keys{rest}" for rest in ("", "/{}", "/{}/{}")),
            *(f"PUT {_V3}/room_keys/keys{rest}" for rest in ("", "/{}", "/{}/{}")),
            *(f"{method} {_V3}/room_keys/version" for method in ("GET", "POST")),
            *(f"{method} {_V3}/room_keys/version/{{}}" for method in ("GET", "PUT", "DELETE")),
            f"POST {_V3}/keys/device_signing/upload",
            f"POST {_V3}/keys/signatures/upload",
            f"POST {_V3}/knock/{{}}",
        }
    ),
    "v1.2": frozenset(
        {
            f"GET {_V1}/register/m.login.registration_token/validity",
            f"GET {_V1}/rooms/{{}}/hierarchy",
        }
    ),
    "v1.3": frozenset(
        {
            f"POST {_V3}/refresh",
            _RELATIONS,
            f"{_RELATIONS}/{{}}",
            f"{_RELATIONS}/{{}}/{{}}",
        }
    ),
    "v1.4": frozenset({f"GET {_V1}/rooms/{{}}/threads"}),
    "v1.5": frozenset(),
    "v1.6": frozenset({f"GET {_V1}/rooms/{{}}/timestamp_to_event"}),
    "v1.7": frozenset(
        {
            f"POST {_V1}/appservice/{{}}/ping",
            f"POST {_V1}/login/get_token",
            "POST /_matrix/media/v1/create",
            "PUT /_matrix/media/v3/upload/{}/{}",
        }
    ),
    "v1.8": frozenset(),
    "v1.9": frozenset(),
    "v1.10": frozenset({"GET /.well-known/matrix/support"}),
    "v1.11": frozenset(
        {
            f"{_MEDIA}/config",
            f"{_MEDIA}/download/{{}}/{{}}",
            f"{_MEDIA}/download/{{}}/{{}}/{{}}",
            f"{_MEDIA}/preview_url",
            f"{_MEDIA}/thumbnail/{{}}/{{}}",
        }
    ),
    "v1.12": frozenset(),
    "v1.13": frozenset({f"POST {_V3}/rooms/{{}}/report"}),
    "v1.14": frozenset({f"POST {_V3}/users/{{}}/report"}),
    "v1.15": frozenset({f"GET {_V1}/room_summary/{{}}"}),
    "v1.16": frozenset({f"DELETE {_V3}/profile/{{}}/{{}}"}),
    "v1.17": frozenset(),
    "v1.18": frozenset(
        f"{method} {_V1}/admin/{what}/{{}}"
        for method in ("GET", "PUT")
        for what in ("lock", "suspend")
    ),
    "v1.19": frozenset({f"GET {_V1}/mutual_rooms"}),
}
"""The operations that each version brought, the oldest version first; parameters are `{}`."""


def supported_versions(operations: Collection[tuple[str, str]]) -> tuple[str, ...]:
    """Returns the versions that a server with these operations, as (method, template), supports,
    the oldest first."""
    known = {f"{method} {re.sub('{[^}]*}', '{}', template)}" for method, template in operations}
    named: list[str] = []
    for version, needed in OPERATIONS.items():
        if not needed <= known:
            break
        named.append(version)
    return tuple(named)
