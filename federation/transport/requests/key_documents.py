"""Published signing keys: the document that we serve and those that others do.

Rules:
1. A document counts only if it names the server it was asked of and is signed by at least one of
   its own `verify_keys`, and no signature by one of them is wrong.
2. `valid_until_ts` counts at most 7 days from when the document was received.
3. Of each server the newest document is kept, and older ones for keys that newer ones lack: who
   verifies an old event needs a key that its server has dropped since.
4. A key that is expired (`old_verify_keys`) is good for events from before its expiry, never for
   a request.

Spec: server-server API, "Publishing keys" and "Querying keys through another server".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.bounded_cache import ByteBoundedCache
from federation.events.canonical_json import JsonObject
from federation.events.ids import KeyId, ServerName
from federation.events.signing import (
    SignatureInvalid,
    SigningKey,
    VerifyKey,
    sign_json,
    verify_json,
)
from federation.limits import (
    KEY_DOCUMENTS_BYTES_MAX,
    KEY_DOCUMENTS_PER_SERVER_MAX,
    KEY_VALIDITY_MS_MAX,
    KEYS_PER_DOCUMENT_MAX,
    OWN_KEY_VALIDITY_MS,
)
from federation.ports import StoredServerKey


class BadKeyDocument(ValueError):
    """A document that isn't one, or isn't signed as it must be."""


@dataclass(frozen=True, slots=True)
class KeyWanted:
    """A key that must have been valid at `at_ms`."""

    server: ServerName
    key_id: KeyId
    at_ms: int


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """One document of another server, its signatures verified. `size` is in bytes."""

    server: ServerName
    document: JsonObject
    key_ids: frozenset[KeyId]
    received_ms: int
    valid_until_ms: int
    size: int

    def is_fresh(self, now_ms: int) -> bool:
        """Whether the middle of its validity, when a server should fetch a newer one, is still
        ahead (spec: "Publishing keys")."""
        return now_ms < (self.received_ms + self.valid_until_ms) // 2


class KeyDocuments:
    """The documents of other servers, newest first; bounded in bytes: those of the server that was
    asked for longest ago are dropped."""

    def __init__(self) -> None:
        self._of: ByteBoundedCache[ServerName, tuple[KeyDocument, ...]] = ByteBoundedCache(
            KEY_DOCUMENTS_BYTES_MAX, lambda documents: sum(one.size for one in documents)
        )

    def add(self, newest: KeyDocument) -> None:
        """Keeps a document that has just been received."""
        kept, seen = [newest], set(newest.key_ids)
        for one in self.of(newest.server):
            if not one.key_ids <= seen:
                kept.append(one)
                seen |= one.key_ids
        self._of.put(newest.server, tuple(kept[:KEY_DOCUMENTS_PER_SERVER_MAX]))

    def of(self, server: ServerName) -> tuple[KeyDocument, ...]:
        """Returns the stored documents of a server, newest first."""
        return self._of.get(server) or ()


def build_key_document(
    server: ServerName, key: SigningKey, old_keys: Sequence[StoredServerKey], now_ms: int
) -> JsonObject:
    """Returns our own document, signed."""
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
    """Returns the keys that a document of `server` publishes, once its signatures were verified.
    Keys of unknown algorithms are left out. Raises BadKeyDocument."""
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
    """Returns the IDs of the keys with which `server` says it signed the document."""
    signatures = document.get("signatures")
    made = signatures.get(server) if isinstance(signatures, dict) else None
    return [KeyId(key_id) for key_id in made] if isinstance(made, dict) else []


def is_usable(key: StoredServerKey, at_ms: int) -> bool:
    """Returns whether the key was valid at `at_ms` (spec: valid_until_ts, expired_ts)."""
    if key.expired_ms is not None:
        return at_ms < key.expired_ms
    return at_ms <= key.valid_until_ms
