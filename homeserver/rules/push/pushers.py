"""Pushers as clients set them: what is valid, and what a gateway's address means.

Rules:
1. A gateway is reached by HTTPS at the specification's path, and by no other. A pusher that sends
   mails is named by the address.
2. An unknown `format` is refused: a client that names one wants less to be sent than all.

Spec: client-server API, "Push Notifications", POST /pushers/set.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from federation.events.canonical_json import JsonObject
from federation.https_urls import HttpsUrl, parse_https_url
from homeserver import limits
from homeserver.errors import bad_json, invalid_param, missing_param, too_large
from homeserver.rules.identity.email_addresses import InvalidEmail, canonical_email

HTTP, EMAIL = "http", "email"
EMAIL_APP = "m.email"
EVENT_ID_ONLY = "event_id_only"
GATEWAY_PATH = "/_matrix/push/v1/notify"

_REQUIRED = ("app_display_name", "device_display_name", "lang", "data")


class PusherKey(msgspec.Struct, frozen=True):
    """The names of a pusher among those of its user."""

    app_id: str
    pushkey: str


class Pusher(msgspec.Struct, frozen=True):
    """A pusher as its client set it; `data` is a JSON object."""

    key: PusherKey
    kind: str
    app_display_name: str
    device_display_name: str
    profile_tag: str
    lang: str
    data: bytes


class PusherRequest(msgspec.Struct, frozen=True):
    """A request to set a pusher, or to delete it (`pusher` None)."""

    key: PusherKey
    pusher: Pusher | None = None
    append: bool = False


def parse_request(body: JsonObject) -> PusherRequest:
    """Parses the body of POST /pushers/set. Raises 400 or 413."""
    missing = [name for name in ("kind", "app_id", "pushkey") if name not in body]
    if missing:
        raise _missing(missing)
    key = PusherKey(
        _text(body["app_id"], "app_id", characters=limits.PUSHER_APP_ID_CHARACTERS),
        _text(body["pushkey"], "pushkey", characters=limits.PUSHER_KEY_BYTES),
    )
    if not key.app_id or not key.pushkey:
        raise invalid_param("app_id and pushkey must not be empty")
    if len(key.pushkey.encode()) > limits.PUSHER_KEY_BYTES:
        raise invalid_param(f"pushkey is longer than {limits.PUSHER_KEY_BYTES} bytes")
    if body["kind"] is None:
        return PusherRequest(key)
    append = body.get("append", False)
    if not isinstance(append, bool):
        raise bad_json("append is not a boolean")
    return PusherRequest(key, _pusher(key, body), append)


def _pusher(key: PusherKey, body: JsonObject) -> Pusher:
    missing = [name for name in _REQUIRED if body.get(name) is None]
    if missing:
        raise _missing(missing)
    kind, data = body["kind"], body["data"]
    if not isinstance(kind, str):
        raise bad_json("kind is not a string")
    if not isinstance(data, dict):
        raise bad_json("data is not an object")
    match kind:
        case "http":
            _check_http(data)
        case "email":
            _check_email(key)
        case _:
            raise invalid_param("This server has no pushers of that kind")
    encoded = orjson.dumps(data)
    if len(encoded) > limits.PUSHER_DATA_BYTES:
        raise too_large(f"data is larger than {limits.PUSHER_DATA_BYTES} bytes")
    names = ("app_display_name", "device_display_name", "profile_tag", "lang")
    texts = {name: _text(body.get(name) or "", name) for name in names}
    return Pusher(key=key, kind=kind, data=encoded, **texts)


def _check_http(data: JsonObject) -> None:
    url, form = data.get("url"), data.get("format", EVENT_ID_ONLY)
    if url is None:
        raise missing_param("Missing parameters: data.url")
    if not isinstance(url, str):
        raise bad_json("data.url is not a string")
    if parse_gateway(url) is None:
        raise invalid_param(f"data.url is not an https URL with the path {GATEWAY_PATH}")
    if form != EVENT_ID_ONLY:
        raise invalid_param(f"data.format is not {EVENT_ID_ONLY}")


def _check_email(key: PusherKey) -> None:
    if key.app_id != EMAIL_APP:
        raise invalid_param(f"app_id is not {EMAIL_APP}")
    try:
        canonical_email(key.pushkey)
    except InvalidEmail as error:
        raise invalid_param(f"pushkey: {error}") from None


def parse_gateway(url: str) -> HttpsUrl | None:
    """Returns where a gateway is; None for an address that can't be one."""
    if len(url) > limits.PUSHER_URL_CHARACTERS or "#" in url:
        return None
    try:
        gateway = parse_https_url(url)
    except ValueError:
        return None
    return gateway if gateway.target.partition("?")[0] == GATEWAY_PATH else None


def gateway_of(pusher: Pusher) -> HttpsUrl | None:
    """Returns where a pusher's gateway is; None for one of another kind."""
    if pusher.kind != HTTP:
        return None
    return parse_gateway(orjson.loads(pusher.data)["url"])


def pusher_json(pusher: Pusher) -> JsonObject:
    """Returns a pusher as GET /pushers shows it."""
    shown: dict[str, Any] = {
        "app_id": pusher.key.app_id,
        "pushkey": pusher.key.pushkey,
        "kind": pusher.kind,
        "app_display_name": pusher.app_display_name,
        "device_display_name": pusher.device_display_name,
        "lang": pusher.lang,
        "data": orjson.Fragment(pusher.data),
    }
    if pusher.profile_tag:
        shown["profile_tag"] = pusher.profile_tag
    return shown


def _text(value: object, name: str, *, characters: int = limits.PUSHER_TEXT_CHARACTERS) -> str:
    if not isinstance(value, str):
        raise bad_json(f"{name} is not a string")
    if len(value) > characters:
        raise invalid_param(f"{name} is longer than {characters} characters")
    if "\0" in value:
        raise invalid_param(f"{name} has a NUL character")
    return value


def _missing(names: list[str]) -> Exception:
    return missing_param(f"Missing parameters: {', '.join(names)}")
