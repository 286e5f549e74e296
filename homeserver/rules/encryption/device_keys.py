"""Checks of public keys of devices and users, before they are stored or forwarded.

Rules:
1. The same checks apply to keys of clients and of other servers: an unchecked key could break the
   clients that receive it.
2. Curve25519 keys have 32 bytes and aren't of low order.
3. A device's keys name their user and device, have an Ed25519 key of 32 bytes, and are signed by
   it. A self-signing or user-signing key is signed by the master key.
4. A signed one-time key is signed by its device, if the device's keys are known.
5. All JSON is canonical (no floats), so that all clients can check signatures.
6. Checks raise MatrixError; its text names the problem.

Spec: client-server API, "Device keys", "One-time and fallback keys", "Cross-signing".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.curve25519 import has_low_order
from federation.events.signing import SignatureInvalid, VerifyKey, decode_base64, verify_json
from homeserver import limits
from homeserver.errors import bad_json, invalid_param, too_large

MASTER, SELF_SIGNING, USER_SIGNING = "master", "self_signing", "user_signing"
_PUBLIC_KEY_BYTES = 32
SIGNED_CURVE = "signed_curve25519"
_CURVE_ALGORITHMS = frozenset({"curve25519", SIGNED_CURVE})


def invalid_signature(error: str) -> MatrixError:
    """400 M_INVALID_SIGNATURE."""
    return MatrixError(400, "M_INVALID_SIGNATURE", error)


def check_text(text: object, name: str) -> str:
    """Checks an identifier that a client or server chose: 1 to 255 bytes of UTF-8 without NUL."""
    if not isinstance(text, str) or not text:
        raise invalid_param(f"{name} must be a string that isn't empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise invalid_param(f"{name} isn't valid Unicode") from error
    if size > limits.IDENTIFIER_BYTES or "\0" in text:
        raise invalid_param(f"{name} is longer than {limits.IDENTIFIER_BYTES} bytes or has a NUL")
    return text


def encode_key(value: object, name: str) -> bytes:
    """Returns the canonical JSON of a key; raises if it isn't canonical or is too large."""
    try:
        encoded = canonical_json.encode(value)
    except NotCanonical as error:
        raise bad_json(f"{name}: {error}") from error
    if len(encoded) > limits.KEY_OBJECT_BYTES:
        raise invalid_param(f"{name} is larger than {limits.KEY_OBJECT_BYTES} bytes")
    return encoded


def encode_device_data(value: object) -> bytes:
    """Returns the JSON of a dehydrated device's private data, which clients alone can read. Raises
    MatrixError."""
    try:
        encoded = orjson.dumps(_object(value, "device_data"))
    except orjson.JSONEncodeError as error:
        raise bad_json(f"device_data can't be stored: {error}") from error
    if len(encoded) > limits.DEHYDRATED_DATA_BYTES:
        raise too_large(f"device_data is larger than {limits.DEHYDRATED_DATA_BYTES} bytes")
    return encoded


def without_signatures(value: JsonObject) -> JsonObject:
    """Returns the signed part: the object without `signatures` and `unsigned`."""
    return {key: part for key, part in value.items() if key not in ("signatures", "unsigned")}


def parse_device_keys(value: object, *, user_id: str, device_id: str) -> JsonObject:
    """Returns a device's keys, checked: without `unsigned`, only with its own signature."""
    keys = _object(value, "device_keys")
    if keys.get("user_id") != user_id or keys.get("device_id") != device_id:
        raise invalid_param("device_keys are not of this user and device")
    algorithms = keys.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(a, str) for a in algorithms):
        raise bad_json("device_keys.algorithms must be a list of strings")
    public = _object(keys.get("keys"), "device_keys.keys")
    if max(len(public), len(algorithms)) > limits.KEY_ALGORITHMS_PER_DEVICE:
        raise invalid_param("device_keys has too many algorithms or keys")
    for name, key in public.items():
        _check_device_key(name, key, device_id)
    own = f"ed25519:{device_id}"
    if own not in public:
        raise invalid_param(f"device_keys.keys has no {own}")
    encode_key(keys, "device_keys")
    _verify(keys, user_id, own, public[own])
    signature = keys["signatures"][user_id][own]
    return {**without_signatures(keys), "signatures": {user_id: {own: signature}}}


def _check_device_key(name: str, key: object, device_id: str) -> None:
    algorithm, _, key_id = name.partition(":")
    if key_id != device_id or not algorithm:
        raise invalid_param(f"device_keys.keys: {name} must end with the device ID")
    if not isinstance(key, str):
        raise bad_json(f"device_keys.keys: {name} must be a string")
    if algorithm == "ed25519":
        _check_length(key, name)
    if algorithm == "curve25519":
        _check_point(key, name)


def _check_point(key: str, name: str) -> None:
    if has_low_order(_check_length(key, name)):
        raise invalid_param(f"{name} is a point of low order")


def _check_length(key: str, name: str) -> bytes:
    try:
        public = decode_base64(key)
    except ValueError as error:
        raise invalid_param(f"{name} isn't Base64") from error
    if len(public) != _PUBLIC_KEY_BYTES:
        raise invalid_param(f"{name} isn't {_PUBLIC_KEY_BYTES} bytes")
    return public


def _verify(value: JsonObject, user_id: str, key_id: str, public_key: str) -> None:
    try:
        verify_json(value, user_id, VerifyKey.from_base64(key_id, public_key))
    except SignatureInvalid as error:
        raise invalid_signature(f"The signature by {key_id} is missing or wrong") from error


def verify_signature(value: JsonObject, user_id: str, key_id: str, public_key: str) -> None:
    """Checks one signature on an object; raises MatrixError (M_INVALID_SIGNATURE)."""
    _verify(value, user_id, key_id, public_key)


def parse_one_time_key(name: str, value: object) -> tuple[str, str, bytes]:
    """Returns (algorithm, key ID, canonical JSON) of one uploaded key. Keys of unknown algorithms
    are strings or objects; Curve25519 keys have 32 bytes, signed ones have signatures."""
    algorithm, _, key_id = name.partition(":")
    check_text(algorithm, "The algorithm of a one-time key")
    check_text(key_id, "The ID of a one-time key")
    if algorithm == SIGNED_CURVE and not isinstance(value, dict):
        raise bad_json(f"{name} must be an object")
    if algorithm in _CURVE_ALGORITHMS:
        public = value.get("key") if isinstance(value, dict) else value
        if not isinstance(public, str):
            raise bad_json(f"{name} has no key")
        _check_point(public, name)
    elif not isinstance(value, str | dict):
        raise bad_json(f"{name} must be a string or an object")
    if algorithm == SIGNED_CURVE:
        check_signatures(value)
    return algorithm, key_id, encode_key(value, name)


def verify_one_time_key(
    name: str, value: JsonObject, device: JsonObject, *, user_id: str, device_id: str
) -> None:
    """Checks that a signed one-time key is signed by its device, whose keys are `device` (checked).
    Raises M_INVALID_SIGNATURE."""
    own = f"ed25519:{device_id}"
    try:
        _verify(value, user_id, own, device["keys"][own])
    except MatrixError as error:
        raise invalid_signature(f"{name} is not signed by its device") from error


def check_signatures(value: Any) -> dict[str, dict[str, str]]:
    """Returns the `signatures` of an object: user ID to key ID to text; at least one."""
    signatures = _object(value.get("signatures"), "signatures")
    for by_key in signatures.values():
        texts = _object(by_key, "signatures").values()
        if not texts or not all(isinstance(text, str) for text in texts):
            raise bad_json("signatures must map users to key IDs to strings")
    if not signatures:
        raise invalid_signature("There is no signature")
    return signatures


def public_key_of(value: JsonObject) -> str:
    """Returns the public part of a cross-signing key that was checked."""
    (public,) = value["keys"].values()
    assert isinstance(public, str)
    return public


def parse_cross_signing_key(value: object, *, user_id: str, usage: str) -> JsonObject:
    """Returns a cross-signing key of a usage, checked except for signatures by other keys: without
    `unsigned`, only with signatures of its own user."""
    key = _object(value, f"{usage}_key")
    if key.get("user_id") != user_id:
        raise invalid_param(f"The {usage} key is not of this user")
    usages = key.get("usage")
    if not isinstance(usages, list) or usage not in usages or len(usages) > 1:
        raise invalid_param(f"The {usage} key must have the usage {usage}, alone")
    keys = _object(key.get("keys"), f"{usage}_key.keys")
    if len(keys) != 1:
        raise invalid_param(f"The {usage} key must have one key")
    ((name, public),) = keys.items()
    if not isinstance(public, str) or name != f"ed25519:{public}":
        raise invalid_param(f"The {usage} key must be named ed25519: and itself")
    _check_length(public, f"The {usage} key")
    encode_key(key, f"The {usage} key")
    kept = without_signatures(key)
    if "signatures" in key:
        own = check_signatures(key).get(user_id, {})
        kept["signatures"] = {user_id: own} if own else {}
    return kept


def verify_by_master(key: JsonObject, *, user_id: str, master_public_key: str) -> None:
    """Checks that a self-signing or user-signing key is signed by the master key."""
    _verify(key, user_id, f"ed25519:{master_public_key}", master_public_key)


def merge_signatures(value: JsonObject, added: Mapping[str, Mapping[str, str]]) -> JsonObject:
    """Returns a copy of a key with further signatures (user ID to key ID to text)."""
    if not added:
        return value
    merged = {user: dict(made) for user, made in value.get("signatures", {}).items()}
    for user, made in added.items():
        merged.setdefault(user, {}).update(made)
    return {**value, "signatures": merged}


def _object(value: object, name: str) -> JsonObject:
    if not isinstance(value, dict):
        raise bad_json(f"{name} must be an object")
    return value
