"""Content hash, reference hash and event ID (spec: server-server API, "Signing Events").

Rules:
1. The content hash covers everything but `unsigned`, `signatures` and `hashes`.
2. The reference hash covers what redaction keeps but `signatures`; it is the event ID since
   room version 3, so an event keeps its ID when it is redacted.
"""

from __future__ import annotations

from hashlib import sha256

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId
from federation.events.redaction_rules import signed_part
from federation.events.room_versions import RoomVersion
from federation.events.signing import encode_base64, encode_base64_url

_NOT_HASHED = frozenset({"unsigned", "signatures", "hashes"})


def encode_for(version: RoomVersion, value: JsonObject) -> bytes:
    """Returns canonical JSON by the rules of a room version; raises NotCanonical."""
    if version.strict_canonical_json:
        return canonical_json.encode(value)
    return canonical_json.encode_lenient(value)


def encode_checked_for(version: RoomVersion, value: JsonObject) -> bytes:
    """Encodes as `encode_for` does, for a value whose parts were checked before."""
    if version.strict_canonical_json:
        return canonical_json.encode_checked(value)
    return canonical_json.encode_lenient(value)


def content_hash(pdu: JsonObject, version: RoomVersion | None = None) -> str:
    """Returns the content hash, unpadded Base64; without a version, by the strict canonical JSON.

    Raises NotCanonical. Spec: "Calculating the content hash for an event".
    """
    part = {name: value for name, value in pdu.items() if name not in _NOT_HASHED}
    encoded = canonical_json.encode(part) if version is None else encode_for(version, part)
    return encode_base64(sha256(encoded).digest())


def content_digest_checked(pdu: JsonObject, version: RoomVersion) -> bytes:
    """Returns the raw content hash of a PDU that passed `canonical_json.check`."""
    part = {name: value for name, value in pdu.items() if name not in _NOT_HASHED}
    return sha256(encode_checked_for(version, part)).digest()


def reference_payload(pdu: JsonObject, version: RoomVersion) -> bytes:
    """Returns the bytes that are signed and that the reference hash covers; raises NotCanonical."""
    return encode_for(version, signed_part(pdu, version))


def reference_payload_checked(pdu: JsonObject, version: RoomVersion) -> bytes:
    """Returns the same as `reference_payload`, for a PDU that passed `canonical_json.check`."""
    return encode_checked_for(version, signed_part(pdu, version))


def event_id_of_payload(payload: bytes, version: RoomVersion) -> EventId:
    """Returns the event ID that a reference payload gives, in versions whose IDs are hashes."""
    digest = sha256(payload).digest()
    if version.event_id_format == "url_safe_hash":
        return EventId("$" + encode_base64_url(digest))
    assert version.event_id_format == "hash", "this version's event IDs are made by servers"
    return EventId("$" + encode_base64(digest))


def event_id_of(pdu: JsonObject, version: RoomVersion) -> EventId:
    """Returns the event's ID: its own `event_id` where servers make them, else its reference hash.

    Raises NotCanonical, or KeyError where the version asks for an `event_id` that is missing.
    """
    if not version.event_ids_are_hashes:
        return EventId(pdu["event_id"])
    return event_id_of_payload(reference_payload(pdu, version), version)
