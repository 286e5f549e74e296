"""A user's presence as others see it: the state, what is told to clients and servers, and the body
of a request.

Rules:
1. `currently_active` is told of users who are online only.
2. Times are on a monotonic clock, in seconds. `last_active_ago` is that of the moment when an
   answer is made.

Spec: client-server API, "Presence"; server-server API, "Presence".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver import limits
from homeserver.errors import bad_json, invalid_param, missing_param

ONLINE, UNAVAILABLE, OFFLINE = "online", "unavailable", "offline"
STATES = (OFFLINE, ONLINE, UNAVAILABLE)

Profile = Mapping[str, str]
"""`displayname` and `avatar_url`, those that are set."""

_MXC = "mxc://"


class Shown(msgspec.Struct, frozen=True):
    """What others are told of when it changes. `status`: the status message."""

    state: str = OFFLINE
    is_active: bool = False
    status: str | None = None


def content_of(shown: Shown, active_s: float | None, now_s: float) -> dict[str, Any]:
    """Returns the content that clients and servers have in common. `active_s`: the time of the last
    activity, None if it isn't known."""
    content: dict[str, Any] = {"presence": shown.state}
    if active_s is not None:
        content["last_active_ago"] = max(0, int((now_s - active_s) * 1000))
    if shown.state == ONLINE:
        content["currently_active"] = shown.is_active
    if shown.status is not None:
        content["status_msg"] = shown.status
    return content


def presence_event(user_id: UserId, content: JsonObject, profile: Profile) -> bytes:
    """Returns an m.presence event."""
    whole = {**content, **profile}
    return orjson.dumps({"type": event_types.PRESENCE, "sender": user_id, "content": whole})


def parse_profile(values: Mapping[str, bytes] | None) -> Profile:
    """Returns what presence says of a stored profile: key to JSON."""
    found: dict[str, str] = {}
    for key in ("displayname", "avatar_url"):
        value = orjson.loads((values or {}).get(key, b"null"))
        if isinstance(value, str) and (key != "avatar_url" or value.startswith(_MXC)):
            found[key] = value
    return found


def parse_request(body: JsonObject) -> tuple[str, str | None]:
    """Returns the state and the status message of PUT /presence/{userId}/status. Raises MatrixError
    (400)."""
    if "presence" not in body:
        raise missing_param("Missing field: presence")
    state, status = body["presence"], body.get("status_msg")
    if state not in STATES:
        raise invalid_param("presence must be offline, online or unavailable")
    if status is not None and not isinstance(status, str):
        raise bad_json("status_msg must be a string")
    if status is not None and len(status) > limits.PRESENCE_STATUS_CHARACTERS:
        raise invalid_param(
            f"status_msg is longer than {limits.PRESENCE_STATUS_CHARACTERS} characters"
        )
    return str(state), status or None
