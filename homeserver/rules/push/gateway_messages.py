"""What push gateways are sent, and what they answer.

Rules:
1. A pusher with the format `event_id_only` learns of an event no more than its ID and its room's.
2. Its `data` goes out as the client set it, without `url`.
3. Counts of zero are left out beside an event; an update of the count alone says 0 too, since it
   would say nothing without it.
4. A notification has a high priority if it makes a sound, highlights, or is encrypted: only the
   client knows what it is.

Spec: push gateway API, POST /_matrix/push/v1/notify.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import UserId
from homeserver.rules.any_json import dump_any
from homeserver.rules.push.pushers import EVENT_ID_ONLY, Pusher

_EVENT_FIELDS = ("event_id", "room_id", "type", "sender", "content")


class PushDevice(msgspec.Struct, frozen=True):
    """The device that a message is for: its pusher, its user, and when it was set."""

    pusher: Pusher
    user_id: UserId
    set_ms: int


class EventNames(msgspec.Struct, frozen=True):
    """The names that go with an event, as far as there are any."""

    sender_display_name: str = ""
    room_name: str = ""
    room_alias: str = ""


def tweaks_of(actions: Sequence[Any]) -> JsonObject:
    """Returns the tweaks that a rule's actions set; a tweak without a value is a highlight, which
    is true."""
    tweaks: JsonObject = {}
    for action in actions:
        if isinstance(action, dict) and isinstance(name := action.get("set_tweak"), str):
            tweaks[name] = action.get("value", True)
    return tweaks


def event_message(
    device: PushDevice,
    event: Mapping[str, Any],
    names: EventNames,
    *,
    actions: Sequence[Any],
    unread: int,
) -> bytes:
    """Returns the body that tells of an event, which is in the format of clients, with room_id."""
    data: JsonObject = orjson.loads(device.pusher.data)
    tweaks = tweaks_of(actions)
    notification: JsonObject = {
        "event_id": event["event_id"],
        "room_id": event["room_id"],
        "counts": {"unread": unread} if unread else {},
        "prio": _priority(event, tweaks),
        "devices": [_device(device, data, tweaks)],
    }
    if data.get("format") != EVENT_ID_ONLY:
        notification |= {name: event[name] for name in _EVENT_FIELDS if name in event}
        notification |= {
            name: value for name, value in msgspec.structs.asdict(names).items() if value
        }
        if event["type"] == event_types.MEMBER:
            notification["user_is_target"] = event.get("state_key") == device.user_id
    return dump_any({"notification": notification})


def badge_message(device: PushDevice, *, unread: int) -> bytes:
    """Returns the body that tells the number of unread notifications alone."""
    notification = {
        "counts": {"unread": unread},
        "prio": "low",
        "devices": [_device(device, orjson.loads(device.pusher.data), {})],
    }
    return orjson.dumps({"notification": notification})


def parse_answer(body: bytes) -> frozenset[str] | None:
    """Returns the push keys that a gateway rejects; None for an answer that isn't a gateway's. One
    that doesn't mention `rejected` rejects none."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    rejected = answer.get("rejected", []) if isinstance(answer, dict) else None
    if not isinstance(rejected, list):
        return None
    return frozenset(one for one in rejected if isinstance(one, str))


def _device(device: PushDevice, data: JsonObject, tweaks: JsonObject) -> JsonObject:
    return {
        "app_id": device.pusher.key.app_id,
        "pushkey": device.pusher.key.pushkey,
        "pushkey_ts": device.set_ms // 1000,
        "data": {name: value for name, value in data.items() if name != "url"},
        "tweaks": tweaks,
    }


def _priority(event: Mapping[str, Any], tweaks: JsonObject) -> str:
    is_urgent = event["type"] == event_types.ENCRYPTED or tweaks.get("highlight")
    return "high" if is_urgent or tweaks.get("sound") else "low"
