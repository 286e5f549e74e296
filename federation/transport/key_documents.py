"""Published signing keys: the document that we serve and those that others do.

Rules:
1. A document counts only if it names the server it was asked of and is signed by at least one of
   its own `verify_keys`, and no signature by one of them is wrong.
2. `valid_until_ts` counts at most 7 days from when the document was received.
3. A key that is expired (`old_verify_keys`) is good for events from before its expiry, never for
   a request.

Spec: server-server API, "Publishing keys" and "Querying keys through another server".
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName
from federation.events.signing import (
    SignatureInvalid,
    SigningKey,
    VerifyKey,
    sign_json,
    verify_json,
)
from federation.limits import KEY_VALIDITY_MS_MAX, KEYS_PER_DOCUMENT_MAX, OWN_KEY_VALIDITY_MS
from federation.ports import StoredServerKey


class BadKeyDocument(ValueError):
    """A document that isn't one, or isn't signed as it must be."""


def build_key_document(
    server: ServerName, key: SigningKey, old_keys: Sequence[StoredServerKey], now_ms: int
) -> JsonObject:
    """Our own document, signed."""
    document: JsonObject = {
        "server_name": server,
        "verify_keys": {key.key_id: {"key": key.verify_key.encoded}},
        "old_verify_keys": {
            old.key_id: {"key": old.key, "expired_ts": old.expired_ms} for old in old_keys
        },
        "valid_until_ts": now_ms + OWN_KEY_VALIDITY_MS,
    }
    return sign_json(document, server, key)


def parse_key_document(document: object, server: ServerName, now_ms: int) -> list[StoredServerKey]:
    """The keys that a document of `server` publishes, once its signatures were verified. Keys of
    unknown algorithms are left out. Raises BadKeyDocument."""
    if not isinstance(document, dict) or document.get("server_name") != server:
        raise BadKeyDocument("not a document of this server")
    valid_until = document.get("valid_until_ts")
    if not isinstance(valid_until, int) or isinstance(valid_until, bool):
        raise BadKeyDocument("no valid_until_ts")
    current = _parse_keys(document.get("verify_keys"))
    _verify_self_signed(document, server, [key for key, _ in current])
    until_ms = min(valid_until, now_ms + KEY_VALIDITY_MS_MAX)
    keys = [StoredServerKey(server, key.key_id, key.encoded, until_ms) for key, _ in current]
    present = {key.key_id for key, _ in current}
    for key, entry in _parse_keys(document.get("old_verify_keys", {})):
        expired = entry.get("expired_ts")
        if isinstance(expired, int) and key.key_id not in present:
            keys.append(StoredServerKey(server, key.key_id, key.encoded, until_ms, expired))
    return keys


def _parse_keys(entries: object) -> list[tuple[VerifyKey, JsonObject]]:
    if not isinstance(entries, dict) or len(entries) > KEYS_PER_DOCUMENT_MAX:
        raise BadKeyDocument("no keys, or too many")
    keys: list[tuple[VerifyKey, JsonObject]] = []
    for key_id, entry in entries.items():
        if not key_id.startswith("ed25519:"):
            continue
        encoded = entry.get("key") if isinstance(entry, dict) else None
        if not isinstance(encoded, str):
            raise BadKeyDocument("a key that isn't a string")
        try:
            keys.append((VerifyKey.from_base64(key_id, encoded), entry))
        except SignatureInvalid as error:
            raise BadKeyDocument(str(error)) from None
    return keys


def _verify_self_signed(
    document: JsonObject, server: ServerName, keys: Sequence[VerifyKey]
) -> None:
    signatures = document.get("signatures")
    made = signatures.get(server) if isinstance(signatures, dict) else None
    signers = [key for key in keys if isinstance(made, dict) and key.key_id in made]
    if not signers:
        raise BadKeyDocument("not signed by one of its own keys")
    for key in signers:
        try:
            verify_json(document, server, key)
        except SignatureInvalid as error:
            raise BadKeyDocument(str(error)) from None


def signer_ids(document: JsonObject, server: ServerName) -> list[KeyId]:
    """The IDs of the keys with which `server` says it signed the document."""
    signatures = document.get("signatures")
    made = signatures.get(server) if isinstance(signatures, dict) else None
    return [KeyId(key_id) for key_id in made] if isinstance(made, dict) else []


def is_usable(key: StoredServerKey, at_ms: int) -> bool:
    """Was the key valid at `at_ms`, as far as is known? (Spec: valid_until_ts, expired_ts.)"""
    if key.expired_ms is not None:
        return at_ms < key.expired_ms
    return at_ms <= key.valid_until_ms
