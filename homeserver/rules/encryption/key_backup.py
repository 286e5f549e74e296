"""Backups of room keys: the shapes of what clients store, and which of two keys is kept.

Rules:
1. The server can't read a backed-up key: `session_data` is an object of the backup's algorithm, and
   is kept as it is. What decides between two keys is the client's word about them.
2. Of two keys for one session the verified one is kept; then the one with the lower
   `first_message_index`; then the one with the lower `forwarded_count`; then the older.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from federation.limits import INTEGER_MAX
from homeserver import limits
from homeserver.errors import bad_json, invalid_param, missing_param, too_large
from homeserver.rules.encryption.device_keys import check_text

ALGORITHMS = frozenset({"m.megolm_backup.v1.curve25519-aes-sha2"})
"""The backup algorithms of the specification."""

_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class KeyQuality(msgspec.Struct, frozen=True):
    """What the owner's clients say of a key."""

    first_message_index: int
    forwarded_count: int
    is_verified: bool

    def is_better_than(self, other: KeyQuality) -> bool:
        """Returns whether a key replaces another one for the same session."""
        return self._rank() < other._rank()

    def _rank(self) -> tuple[bool, int, int]:
        return not self.is_verified, self.first_message_index, self.forwarded_count


class BackedUpKey(msgspec.Struct, frozen=True):
    """The key of one Megolm session; `session_data` is a JSON object."""

    room_id: RoomId
    session_id: str
    quality: KeyQuality
    session_data: bytes


class BackupSettings(msgspec.Struct, frozen=True):
    """How the keys of a backup are encrypted; `auth_data` is a JSON object."""

    algorithm: str
    auth_data: bytes


def parse_version(text: str) -> int | None:
    """Returns the number of a version; None for a text that no version has."""
    return int(text) if _VERSION.fullmatch(text) else None


def parse_settings(body: JsonObject) -> BackupSettings:
    """Parses the body that creates or changes a backup. Raises 400 or 413."""
    algorithm = _required(body, "algorithm")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise invalid_param("algorithm is not one of the specification's")
    auth_data = _object(_required(body, "auth_data"), "auth_data")
    encoded = orjson.dumps(auth_data)
    if len(encoded) > limits.KEY_BACKUP_AUTH_DATA_BYTES:
        raise too_large(f"auth_data is larger than {limits.KEY_BACKUP_AUTH_DATA_BYTES} bytes")
    return BackupSettings(algorithm, encoded)


def parse_rooms(body: JsonObject) -> Iterator[BackedUpKey]:
    """Parses keys of several rooms: `{"rooms": {room: {"sessions": …}}}`. Raises 400 or 413."""
    for room_id, room in _object(_required(body, "rooms"), "rooms").items():
        yield from parse_room(room_id, _object(room, "A room"))


def parse_room(room_id: str, body: JsonObject) -> Iterator[BackedUpKey]:
    """Parses keys of one room: `{"sessions": {session: key}}`. Raises as `parse_rooms`."""
    for session_id, key in _object(_required(body, "sessions"), "sessions").items():
        yield parse_key(room_id, session_id, _object(key, "A key"))


def parse_key(room_id: str, session_id: str, body: JsonObject) -> BackedUpKey:
    """Parses one key. Raises as `parse_rooms`."""
    if not check_text(room_id, "The room ID").startswith("!"):
        raise invalid_param("The room ID doesn't begin with !")
    is_verified = _required(body, "is_verified")
    if not isinstance(is_verified, bool):
        raise bad_json("is_verified is not a boolean")
    quality = KeyQuality(
        _count(body, "first_message_index"), _count(body, "forwarded_count"), is_verified
    )
    data = orjson.dumps(_object(_required(body, "session_data"), "session_data"))
    if len(data) > limits.KEY_BACKUP_SESSION_BYTES:
        raise too_large(f"session_data is larger than {limits.KEY_BACKUP_SESSION_BYTES} bytes")
    return BackedUpKey(RoomId(room_id), check_text(session_id, "The session ID"), quality, data)


def key_json(key: BackedUpKey) -> Mapping[str, Any]:
    """Returns a key as clients see it, for `orjson`."""
    return {
        "first_message_index": key.quality.first_message_index,
        "forwarded_count": key.quality.forwarded_count,
        "is_verified": key.quality.is_verified,
        "session_data": orjson.Fragment(key.session_data),
    }


def _count(body: JsonObject, name: str) -> int:
    value = _required(body, name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INTEGER_MAX:
        raise bad_json(f"{name} is not a number from 0 to {INTEGER_MAX}")
    return value


def _required(body: JsonObject, name: str) -> object:
    if name not in body:
        raise missing_param(f"Missing field: {name}")
    return body[name]


def _object(value: object, name: str) -> JsonObject:
    if not isinstance(value, dict):
        raise bad_json(f"{name} is not an object")
    return value
