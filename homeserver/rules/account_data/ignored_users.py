"""The list of ignored users, `m.ignored_user_list`.

Spec: client-server API, "Ignoring Users".
"""

from __future__ import annotations

import orjson

IGNORED_USER_LIST = "m.ignored_user_list"


def parse_ignored(content: bytes) -> frozenset[str]:
    """Returns the users that an m.ignored_user_list names; empty if the content is malformed."""
    value = orjson.loads(content)
    users = value.get("ignored_users") if isinstance(value, dict) else None
    return frozenset(users) if isinstance(users, dict) else frozenset()
