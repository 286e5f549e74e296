"""Builds and signs local events (spec: server-server API, "Adding hashes and signatures to
outgoing events").

Rules:
1. The content is encoded once; hash, signature and `raw` reuse those bytes.
2. Every built event passes `parse_pdu`: sizes, identifiers and canonical JSON are checked here too.
3. Time and key are arguments; nothing here reads a clock.
4. Where servers choose event IDs (room versions 1 and 2), ours are a hash of the event's fields,
   which needs no random source; cited events are cited with their reference hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from federation import limits
from federation.events import canonical_json, event_types, hashes, ids
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.event import Event, EventTooLarge, InvalidEvent, parse_pdu
from federation.events.ids import EventId, InvalidIdentifier, RoomId, ServerName, UserId
from federation.events.redaction_rules import redact_content
from federation.events.room_versions import RoomVersion
from federation.events.signing import SigningKey, encode_base64, encode_base64_url

__all__ = [
    "Edges",
    "EventDraft",
    "EventTooLarge",
    "InvalidEvent",
    "build_event",
    "references",
    "sign_event",
]

Cited = Callable[[EventId], Event]
"""Returns a loaded event that a new one cites."""

_SORT: Final = orjson.OPT_SORT_KEYS


@dataclass(frozen=True, slots=True)
class Edges:
    """The place of a new event in the graph: the events that it cites, and its depth, which is
    capped at 2^53-1 as the specification requires. `cited` gives those events; only versions that
    cite by ID and hash (1 and 2) need it."""

    prev_events: Sequence[EventId] = ()
    auth_events: Sequence[EventId] = ()
    depth: int = 1
    cited: Cited | None = None


@dataclass(frozen=True, slots=True)
class EventDraft:
    """The part of an event that the sender chooses; the rest follows from the room."""

    type: str
    sender: UserId
    content: JsonObject
    state_key: str | None = None
    redacts: EventId | None = None
    origin_server_ts: int | None = None
    """Milliseconds since 1970; None for now."""


def _check_text(name: str, value: object) -> None:
    if type(value) is not str:
        raise InvalidEvent(f"{name} is not a string")
    if not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidEvent(f"{name} contains a lone surrogate") from None
    else:
        size = len(value)
    if size > limits.IDENTIFIER_BYTES_MAX:
        raise EventTooLarge(f"{name} is longer than 255 bytes")


def _check_draft(draft: EventDraft) -> None:
    _check_text("type", draft.type)
    if draft.state_key is not None:
        _check_text("state_key", draft.state_key)
    try:
        ids.parse_user_id(draft.sender)
    except InvalidIdentifier as error:
        raise InvalidEvent(f"sender: {error}") from error
    if type(draft.content) is not dict:
        raise InvalidEvent("content is not an object")


def _content_of(draft: EventDraft, version: RoomVersion) -> JsonObject:
    if draft.redacts is not None and version.redacts_in_content:
        return {**draft.content, "redacts": draft.redacts}
    return draft.content


def _fields(draft: EventDraft, version: RoomVersion, room_id: RoomId | None) -> JsonObject:
    """Returns the top-level fields, other than the content, that don't depend on the graph."""
    fields: JsonObject = {"sender": draft.sender, "type": draft.type}
    if draft.state_key is not None:
        fields["state_key"] = draft.state_key
    if draft.redacts is not None and not version.redacts_in_content:
        fields["redacts"] = draft.redacts
    if version.room_id_is_create_hash and draft.type == event_types.CREATE:
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
    edges: Edges,
    now_ms: int,
    server_name: ServerName,
    key: SigningKey,
) -> Event:
    """Builds a signed local event.

    `room_id` is None for the create event of versions whose room ID is its hash, and only then.
    Raises InvalidEvent, or EventTooLarge for sizes.
    """
    _check_draft(draft)
    prev_events, auth_events = edges.prev_events, edges.auth_events
    if len(prev_events) > limits.PREV_EVENTS_MAX or len(auth_events) > limits.AUTH_EVENTS_MAX:
        raise InvalidEvent("too many prev_events or auth_events")
    content = _content_of(draft, version)
    encoded = _encode_content(content, version)
    fields = _fields(draft, version, room_id)
    depth = min(edges.depth, limits.EVENT_DEPTH_MAX)
    fields["depth"] = depth
    fields["origin_server_ts"] = timestamp = (
        now_ms if draft.origin_server_ts is None else draft.origin_server_ts
    )
    if type(timestamp) is not int or abs(timestamp) > limits.INTEGER_MAX:
        raise InvalidEvent("origin_server_ts is not an integer within 2^53-1")
    fields["prev_events"] = references(version, prev_events, edges.cited)
    fields["auth_events"] = references(version, auth_events, edges.cited)
    event_id, raw = _hash_and_sign(fields, content, encoded, version, (server_name, key))
    return Event(
        event_id=event_id,
        room_id=room_id if room_id is not None else RoomId("!" + event_id[1:]),
        type=draft.type,
        sender=draft.sender,
        state_key=draft.state_key,
        content=content,
        prev_events=tuple(prev_events),
        auth_events=tuple(auth_events),
        depth=depth,
        origin_server_ts=timestamp,
        redacts=draft.redacts if draft.type == event_types.REDACTION else None,
        version=version,
        raw=raw,
    )


def unsigned_event(
    draft: EventDraft,
    *,
    version: RoomVersion,
    room_id: RoomId,
    prev_events: Sequence[EventId],
    depth: int,
    time_ms: int,
) -> Event:
    """What another server will make of a template, for the auth rules alone: it has no ID of its
    own, no auth events, no hashes and no signatures. `time_ms`: milliseconds since 1970."""
    return Event(
        event_id=EventId("$template"),
        room_id=room_id,
        type=draft.type,
        sender=draft.sender,
        state_key=draft.state_key,
        content=draft.content,
        prev_events=tuple(prev_events),
        auth_events=(),
        depth=depth,
        origin_server_ts=time_ms,
        redacts=None,
        version=version,
        raw=b"",
    )


def _hash_and_sign(
    fields: JsonObject,
    content: JsonObject,
    encoded: bytes,
    version: RoomVersion,
    signer: tuple[ServerName, SigningKey],
) -> tuple[EventId, bytes]:
    """Returns the event ID and `raw`; adds hashes, signatures and the content to `fields`."""
    server_name, key = signer
    fields["content"] = whole = orjson.Fragment(encoded)
    if not version.event_ids_are_hashes:
        fields["event_id"] = _made_event_id(orjson.dumps(fields, option=_SORT), server_name)
    digest = sha256(orjson.dumps(fields, option=_SORT)).digest()
    fields["hashes"] = {"sha256": encode_base64(digest)}
    redacts = fields.pop("redacts", None)  # a redaction removes it from the top level
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
    if not version.event_ids_are_hashes:
        return fields["event_id"], raw
    return hashes.event_id_of_payload(payload, version), raw


def _made_event_id(encoded: bytes, server_name: ServerName) -> EventId:
    """Returns an ID of the form `$opaque:domain` for an event whose encoded fields are given.

    Spec: room version 1, "Event IDs": unique on its server, as a hash of the whole event is.
    """
    return EventId(f"${encode_base64_url(sha256(encoded).digest())}:{server_name}")


def references(
    version: RoomVersion, event_ids: Sequence[EventId], cited: Cited | None
) -> list[Any]:
    """Returns `event_ids` as `prev_events` or `auth_events` name them: IDs, or pairs with hashes.

    Spec: room version 1, "Event format"; room version 3, "Event format". Raises InvalidEvent when
    hashes are needed and `cited` is None.
    """
    if version.event_ids_are_hashes or not event_ids:
        return list(event_ids)
    if cited is None:
        raise InvalidEvent(f"room version {version.name} cites events by their hashes")
    return [[event_id, {"sha256": _reference_hash(cited(event_id))}] for event_id in event_ids]


def _reference_hash(event: Event) -> str:
    payload = hashes.reference_payload(canonical_json.decode_lenient(event.raw), event.version)
    return encode_base64(sha256(payload).digest())


def sign_event(
    event_pdu: JsonObject, version: RoomVersion, server_name: ServerName, key: SigningKey
) -> Event:
    """Signs a PDU given as JSON: a completed make_join template, or an invite to co-sign.

    Without any signature so far, the content hash is computed anew, and so is the event ID where
    servers choose it. Otherwise both are kept, and the hash must match. Other servers' signatures
    are kept. Raises InvalidEvent.
    """
    pdu: JsonObject = {name: value for name, value in event_pdu.items() if name != "unsigned"}
    given = pdu.get("signatures")
    signatures: dict[str, Any] = given if isinstance(given, dict) else {}
    if type(pdu.get("type")) is not str or type(pdu.get("content")) is not dict:
        raise InvalidEvent("type or content is missing")
    try:
        canonical_json.check(pdu) if version.strict_canonical_json else None
        if not signatures:
            if not version.event_ids_are_hashes:
                pdu.pop("event_id", None)
                encoded = hashes.encode_for(version, pdu)
                pdu["event_id"] = _made_event_id(encoded, server_name)
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
