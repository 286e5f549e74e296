"""Building and signing events of our own (spec: server-server API, "Adding hashes and signatures
to outgoing events").

Rules:
1. The content is dumped once; hash, signature and `raw` splice those bytes.
2. What is built passes `parse_pdu`: sizes, identifiers and canonical JSON are checked here too.
3. Time and key are arguments; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from federation import limits
from federation.events import canonical_json, hashes, ids
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.event import Event, EventTooLarge, InvalidEvent, parse_pdu
from federation.events.ids import EventId, InvalidIdentifier, RoomId, ServerName, UserId
from federation.events.redaction_rules import redact_content
from federation.events.room_versions import RoomVersion
from federation.events.signing import SigningKey, encode_base64

__all__ = ["EventDraft", "EventTooLarge", "InvalidEvent", "build_event", "sign_event"]

_SORT: Final = orjson.OPT_SORT_KEYS


@dataclass(frozen=True, slots=True)
class EventDraft:
    """What a sender says; the rest of an event follows from the room."""

    type: str
    sender: UserId
    content: JsonObject
    state_key: str | None = None
    redacts: EventId | None = None
    origin_server_ts: int | None = None
    """Milliseconds since 1970; None for now."""


def _check_text(name: str, value: object) -> None:
    if type(value) is not str:
        raise InvalidEvent(f"{name} is no string")
    if not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidEvent(f"{name} contains a lone surrogate") from None
    else:
        size = len(value)
    if size > limits.IDENTIFIER_BYTES_MAX:
        raise EventTooLarge(f"{name} is longer than 255 bytes")


def _check_draft(draft: EventDraft, version: RoomVersion) -> None:
    if version.event_id_format == "server_made":
        raise InvalidEvent(f"events of room version {version.name} can't be built here")
    _check_text("type", draft.type)
    if draft.state_key is not None:
        _check_text("state_key", draft.state_key)
    try:
        ids.parse_user_id(draft.sender)
    except InvalidIdentifier as error:
        raise InvalidEvent(f"sender: {error}") from error
    if type(draft.content) is not dict:
        raise InvalidEvent("content is no object")


def _content_of(draft: EventDraft, version: RoomVersion) -> JsonObject:
    if draft.redacts is not None and version.redacts_in_content:
        return {**draft.content, "redacts": draft.redacts}
    return draft.content


def _fields(draft: EventDraft, version: RoomVersion, room_id: RoomId | None) -> JsonObject:
    """The top-level fields that don't depend on the graph, content aside."""
    fields: JsonObject = {"sender": draft.sender, "type": draft.type}
    if draft.state_key is not None:
        fields["state_key"] = draft.state_key
    if draft.redacts is not None and not version.redacts_in_content:
        fields["redacts"] = draft.redacts
    if version.room_id_is_create_hash and draft.type == "m.room.create":
        if room_id is not None:
            raise InvalidEvent("a create event of this version has no room_id")
    elif room_id is None:
        raise InvalidEvent("room_id is missing")
    else:
        fields["room_id"] = room_id
    return fields


def _encode_content(content: JsonObject, version: RoomVersion) -> bytes:
    try:
        return hashes.encode_for(version, content)
    except NotCanonical as error:
        raise InvalidEvent(f"content: {error}") from error


def build_event(
    draft: EventDraft,
    *,
    version: RoomVersion,
    room_id: RoomId | None,
    prev_events: Sequence[EventId],
    auth_events: Sequence[EventId],
    depth: int,
    now_ms: int,
    server_name: ServerName,
    key: SigningKey,
) -> Event:
    """A signed event of ours.

    `room_id` is None for the create event of versions whose room ID is its hash, and only then.
    `depth` is capped at 2^53-1, as the spec asks. Raises InvalidEvent, or EventTooLarge for
    sizes.
    """
    _check_draft(draft, version)
    if len(prev_events) > limits.PREV_EVENTS_MAX or len(auth_events) > limits.AUTH_EVENTS_MAX:
        raise InvalidEvent("too many prev_events or auth_events")
    content = _content_of(draft, version)
    encoded = _encode_content(content, version)
    fields = _fields(draft, version, room_id)
    depth = min(depth, limits.EVENT_DEPTH_MAX)
    fields["depth"] = depth
    fields["origin_server_ts"] = timestamp = (
        now_ms if draft.origin_server_ts is None else draft.origin_server_ts
    )
    if type(timestamp) is not int or abs(timestamp) > limits.INTEGER_MAX:
        raise InvalidEvent("origin_server_ts is no integer within 2^53-1")
    fields["prev_events"] = list(prev_events)
    fields["auth_events"] = list(auth_events)
    event_id, raw = _hash_and_sign(fields, content, encoded, version, (server_name, key))
    return Event(
        event_id,
        room_id if room_id is not None else RoomId("!" + event_id[1:]),
        draft.type,
        draft.sender,
        draft.state_key,
        content,
        tuple(prev_events),
        tuple(auth_events),
        depth,
        timestamp,
        draft.redacts if draft.type == "m.room.redaction" else None,
        version,
        raw,
    )


def _hash_and_sign(
    fields: JsonObject,
    content: JsonObject,
    encoded: bytes,
    version: RoomVersion,
    signer: tuple[ServerName, SigningKey],
) -> tuple[EventId, bytes]:
    """The event ID and `raw`; `fields` gains hashes, signatures and the content."""
    server_name, key = signer
    fields["content"] = whole = orjson.Fragment(encoded)
    digest = sha256(orjson.dumps(fields, option=_SORT)).digest()
    fields["hashes"] = {"sha256": encode_base64(digest)}
    redacts = fields.pop("redacts", None)  # redaction removes it from the top level
    kept = redact_content(fields["type"], content, version)
    fields["content"] = orjson.Fragment(_encode_content(kept, version))
    payload = orjson.dumps(fields, option=_SORT)
    fields["signatures"] = {server_name: {key.key_id: key.sign(payload)}}
    fields["content"] = whole
    if redacts is not None:
        fields["redacts"] = redacts
    raw = orjson.dumps(fields, option=_SORT)
    if len(raw) > limits.EVENT_BYTES_MAX:
        raise EventTooLarge(f"the event is larger than {limits.EVENT_BYTES_MAX} bytes")
    return hashes.event_id_of_payload(payload, version), raw


def sign_event(
    event_pdu: JsonObject, version: RoomVersion, server_name: ServerName, key: SigningKey
) -> Event:
    """Sign a PDU given as JSON: a make_join template that we filled in, or an invite to co-sign.

    Where nobody has signed yet, the content hash is computed (again); else it is kept and must
    match. Other servers' signatures are kept. Raises InvalidEvent.
    """
    pdu: JsonObject = {name: value for name, value in event_pdu.items() if name != "unsigned"}
    given = pdu.get("signatures")
    signatures: dict[str, Any] = given if isinstance(given, dict) else {}
    if type(pdu.get("type")) is not str or type(pdu.get("content")) is not dict:
        raise InvalidEvent("type or content is missing")
    try:
        canonical_json.check(pdu) if version.strict_canonical_json else None
        if not signatures:
            pdu["hashes"] = {"sha256": hashes.content_hash(pdu, version)}
        payload = hashes.reference_payload(pdu, version)
    except NotCanonical as error:
        raise InvalidEvent(str(error)) from error
    made = signatures.get(server_name)
    own = {**made} if isinstance(made, dict) else {}
    own[key.key_id] = key.sign(payload)
    pdu["signatures"] = {**signatures, server_name: own}
    event = parse_pdu(pdu, version)
    if event.content_redacted:
        raise InvalidEvent("the content hash does not match")
    return event
