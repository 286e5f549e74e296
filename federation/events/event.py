"""Events: the internal form, parsing PDUs, loading stored ones, the form for clients.

Rules:
1. An event is parsed once. `raw` is its canonical JSON without `unsigned`, which is stored and
   federated; nothing encodes an event a second time.
2. `parse_pdu` is check 1 and the hash half of check 3 of "Checks performed on receipt of a PDU":
   a malformed PDU raises InvalidEvent (dropped); a wrong content hash causes a redaction.
3. `load_event` trusts our own store and checks nothing.
4. Two events are equal when their IDs are.

Spec: server-server API, "PDUs"; room versions, "Event format"; client-server API, "Size limits".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from federation import limits
from federation.events import canonical_json, event_types, hashes, ids
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.ids import (
    EventId,
    InvalidIdentifier,
    KeyId,
    RoomId,
    ServerName,
    StateKey,
    UserId,
)
from federation.events.redaction_rules import redact
from federation.events.room_versions import RoomVersion
from federation.events.signing import decode_base64


class InvalidEvent(ValueError):
    """A PDU that breaks the event format of its room version; `reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotCanonicalEvent(InvalidEvent):
    """A PDU with what canonical JSON can't have: a float, a number beyond 2^53-1, no text."""


class EventTooLarge(InvalidEvent):
    """A PDU beyond 65,536 bytes, or with a field beyond 255 bytes (code points in old versions)."""


class Event(msgspec.Struct, frozen=True, eq=False, gc=False, kw_only=True):
    """One event, immutable; equal and hashed by its ID. Its fields are given by name: many are of
    one type, and an event with two of them exchanged would pass all checks of types.

    Kept out of the garbage collector (`gc=False`): an event holds JSON only, so never a cycle.
    """

    event_id: EventId
    room_id: RoomId
    type: str
    sender: UserId
    state_key: str | None
    content: JsonObject
    prev_events: tuple[EventId, ...]
    auth_events: tuple[EventId, ...]
    depth: int
    origin_server_ts: int
    redacts: EventId | None
    version: RoomVersion
    raw: bytes
    """Canonical JSON of the whole PDU without `unsigned`."""
    content_redacted: bool = False
    """Whether the content hash was wrong, so that this is the redacted form of the sent event."""

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.event_id == other.event_id

    def __repr__(self) -> str:
        return f"<Event {self.event_id} {self.type} by {self.sender}>"

    @property
    def is_state(self) -> bool:
        """Whether the event has a `state_key`."""
        return self.state_key is not None

    @property
    def key(self) -> StateKey:
        """(type, state_key); state events only."""
        assert self.state_key is not None, f"{self.event_id} is not a state event"
        return (self.type, self.state_key)

    @property
    def membership(self) -> str | None:
        """`content.membership` of an `m.room.member` event, when it is a string."""
        if self.type != event_types.MEMBER:
            return None
        membership = self.content.get("membership")
        return membership if isinstance(membership, str) else None


def _string(pdu: JsonObject, name: str, version: RoomVersion) -> str:
    value = pdu.get(name)
    if type(value) is not str:
        raise InvalidEvent(f"{name} is not a string")
    is_wide = version.field_sizes_in_bytes and not value.isascii()
    if (len(value.encode()) if is_wide else len(value)) > limits.IDENTIFIER_BYTES_MAX:
        raise EventTooLarge(f"{name} is longer than 255 bytes")
    return value


def _integer(pdu: JsonObject, name: str) -> int:
    value = pdu.get(name)
    if type(value) is not int:
        raise InvalidEvent(f"{name} is not an integer")
    return value


def _object(pdu: JsonObject, name: str) -> JsonObject:
    value = pdu.get(name)
    if type(value) is not dict:
        raise InvalidEvent(f"{name} is not an object")
    return value


def _event_ids(pdu: JsonObject, name: str, size_max: int, version: RoomVersion) -> Sequence[str]:
    value = pdu.get(name)
    if type(value) is not list:
        raise InvalidEvent(f"{name} is not a list")
    if len(value) > size_max:
        raise InvalidEvent(f"{name} has more than {size_max} entries")
    if not version.event_ids_are_hashes:
        value = [_referenced_id(entry, name) for entry in value]
    for event_id in value:
        if type(event_id) is not str:
            raise InvalidEvent(f"{name} has an entry that is not an event ID")
        ids.parse_event_id(event_id)
    return value


def _referenced_id(entry: Any, name: str) -> str:
    """Returns the ID of an `[id, {"sha256": hash}]` pair (room versions 1 and 2)."""
    if type(entry) is not list or len(entry) != 2 or type(entry[0]) is not str:
        raise InvalidEvent(f"{name} has an entry that is not a pair of ID and hash")
    return entry[0]


def _room_id(pdu: JsonObject, event_type: str, event_id: EventId, version: RoomVersion) -> RoomId:
    if version.room_id_is_create_hash:
        if event_type == event_types.CREATE:
            # A `room_id` that is present nevertheless breaks an auth rule (1.2), not the format.
            return RoomId("!" + event_id[1:])
        return ids.parse_hash_room_id(_string(pdu, "room_id", version))
    room_id = _string(pdu, "room_id", version)
    if ":" not in room_id:
        raise InvalidEvent("room_id has no domain")
    return ids.parse_room_id(room_id, in_bytes=version.field_sizes_in_bytes)


def _redacts(event_type: str, pdu: JsonObject, version: RoomVersion) -> EventId | None:
    if event_type != event_types.REDACTION:
        return None
    holder = pdu["content"] if version.redacts_in_content else pdu
    redacts = holder.get("redacts")
    return EventId(redacts) if type(redacts) is str else None


def _check_signatures(pdu: JsonObject) -> None:
    for made in _object(pdu, "signatures").values():
        if type(made) is not dict or not all(type(text) is str for text in made.values()):
            raise InvalidEvent("signatures is not an object of objects of strings")


def _given_digest(pdu: JsonObject) -> bytes:
    given = _object(pdu, "hashes").get("sha256")
    if type(given) is not str:
        raise InvalidEvent("hashes has no sha256")
    try:
        return decode_base64(given)
    except ValueError:
        return b""  # matches nothing, so the event is redacted like any with a wrong hash


def _check_numbers(pdu: JsonObject, version: RoomVersion) -> None:
    time_ms = _integer(pdu, "origin_server_ts")
    if not limits.EVENT_TIME_MS_MIN <= time_ms <= limits.EVENT_TIME_MS_MAX:
        raise InvalidEvent("origin_server_ts is out of range")
    depth_max = (
        limits.EVENT_DEPTH_MAX if version.strict_canonical_json else limits.EVENT_DEPTH_MAX_LENIENT
    )
    if not 0 <= _integer(pdu, "depth") <= depth_max:
        raise InvalidEvent("depth is out of range")


def _check_size(raw: bytes) -> None:
    if len(raw) > limits.EVENT_BYTES_MAX:
        raise EventTooLarge(f"the event is larger than {limits.EVENT_BYTES_MAX} bytes")


class SignedEvent(msgspec.Struct, frozen=True, gc=False):
    """A parsed event with the data to verify its signatures, so that it isn't decoded again."""

    event: Event
    payload: bytes
    """The signed bytes."""
    signatures: Mapping[ServerName, Mapping[KeyId, str]]
    """The signatures of any algorithm, not verified."""


def parse_pdu(pdu: JsonObject, version: RoomVersion) -> Event:
    """Checks a received PDU against its version's format and hash, and makes an Event of it.

    Returns the *redacted* event, with `content_redacted`, when the content hash doesn't match.
    Raises InvalidEvent (EventTooLarge for sizes). `unsigned` is dropped; signatures are not
    verified here. The PDU is not changed; its `content` is shared with the Event.
    """
    return _parse(pdu, version, with_payload=version.event_ids_are_hashes).event


def parse_signed_pdu(pdu: JsonObject, version: RoomVersion) -> SignedEvent:
    """Parses as `parse_pdu` does, and prepares the verification of signatures by the caller."""
    return _parse(pdu, version, with_payload=True)


def _parse(pdu: JsonObject, version: RoomVersion, *, with_payload: bool) -> SignedEvent:
    try:
        kept, raw, content_redacted = _check(pdu, version)
        payload = hashes.reference_payload_checked(kept, version) if with_payload else b""
        event = _make(kept, raw, payload, version, content_redacted=content_redacted)
        return SignedEvent(event, payload, kept["signatures"])
    except NotCanonical as error:
        raise NotCanonicalEvent(str(error)) from error
    except InvalidIdentifier as error:
        raise InvalidEvent(str(error)) from error
    except UnicodeEncodeError as error:
        raise NotCanonicalEvent("a lone surrogate") from error


def _check(pdu: JsonObject, version: RoomVersion) -> tuple[JsonObject, bytes, bool]:
    """Returns the kept part of a PDU, its canonical JSON, and whether its content was redacted."""
    sendable = pdu
    if "unsigned" in pdu:
        sendable = {name: value for name, value in pdu.items() if name != "unsigned"}
    if version.strict_canonical_json:
        canonical_json.check(sendable)
    _string(sendable, "type", version)
    in_bytes = version.field_sizes_in_bytes
    ids.parse_user_id(_string(sendable, "sender", version), in_bytes=in_bytes)
    if "state_key" in sendable:
        _string(sendable, "state_key", version)
    _object(sendable, "content")
    _check_numbers(sendable, version)
    _check_signatures(sendable)
    given = _given_digest(sendable)
    redacts = sendable.get("redacts")
    if redacts is not None and not version.redacts_in_content and type(redacts) is not str:
        raise InvalidEvent("redacts is not a string")
    if not version.event_ids_are_hashes:
        ids.parse_server_made_event_id(_string(sendable, "event_id", version))
    raw = hashes.encode_checked_for(version, sendable)
    _check_size(raw)
    if given == hashes.content_digest_checked(sendable, version):
        return sendable, raw, False
    redacted = redact(sendable, version)
    return redacted, hashes.encode_checked_for(version, redacted), True


def _make(
    pdu: JsonObject, raw: bytes, payload: bytes, version: RoomVersion, *, content_redacted: bool
) -> Event:
    """Returns the event of a checked PDU; `payload` counts where it gives the event ID."""
    event_id = (
        hashes.event_id_of_payload(payload, version)
        if version.event_ids_are_hashes
        else EventId(pdu["event_id"])
    )
    event_type = pdu["type"]
    room_id = _room_id(pdu, event_type, event_id, version)
    prev_events = _event_ids(pdu, "prev_events", limits.PREV_EVENTS_MAX, version)
    auth_events = _event_ids(pdu, "auth_events", limits.AUTH_EVENTS_MAX, version)
    return Event(
        event_id=event_id,
        room_id=room_id,
        type=event_type,
        sender=pdu["sender"],
        state_key=pdu.get("state_key"),
        content=pdu["content"],
        prev_events=tuple(map(EventId, prev_events)),
        auth_events=tuple(map(EventId, auth_events)),
        depth=pdu["depth"],
        origin_server_ts=pdu["origin_server_ts"],
        redacts=_redacts(event_type, pdu, version),
        version=version,
        raw=bytes(
            memoryview(raw)
        ),  # a copy: the buffer of the JSON library has room for 4 KB and more
        content_redacted=content_redacted,
    )


class _Stored(msgspec.Struct, gc=False):
    """The fields of a stored PDU; the quickest form for the decoder."""

    type: str
    sender: str
    content: dict[str, Any]
    prev_events: tuple[Any, ...]
    auth_events: tuple[Any, ...]
    depth: int
    origin_server_ts: int
    room_id: str = ""
    state_key: str | None = None
    redacts: Any = None


_STORED: Final = msgspec.json.Decoder(_Stored)
_STORED_FIELDS: Final = _Stored.__struct_fields__


def _decode_stored(raw: bytes) -> _Stored:
    try:
        return _STORED.decode(raw)
    except RecursionError:
        pdu: Mapping[str, Any] = canonical_json.decode_lenient(raw)
        known = {name: pdu[name] for name in _STORED_FIELDS if name in pdu}
        known["prev_events"] = tuple(known["prev_events"])
        known["auth_events"] = tuple(known["auth_events"])
        return _Stored(**known)


def load_event(raw: bytes, version: RoomVersion, event_id: EventId) -> Event:
    """Returns the event of our own store: `raw` and `event_id` are what `parse_pdu` or
    `build_event` made.

    No hash is computed and nothing checked.
    """
    stored = _decode_stored(raw)
    prev_events, auth_events = stored.prev_events, stored.auth_events
    if not version.event_ids_are_hashes:
        prev_events = tuple(entry[0] for entry in prev_events)
        auth_events = tuple(entry[0] for entry in auth_events)
    redacts: EventId | None = None
    if stored.type == event_types.REDACTION:
        found = stored.content.get("redacts") if version.redacts_in_content else stored.redacts
        redacts = EventId(found) if type(found) is str else None
    return Event(
        event_id=event_id,
        # Only a create event whose hash is the room ID has no `room_id`.
        room_id=RoomId(
            "!" + event_id[1:]
            if version.room_id_is_create_hash and stored.type == event_types.CREATE
            else stored.room_id
        ),
        type=stored.type,
        sender=UserId(stored.sender),
        state_key=stored.state_key,
        content=stored.content,
        prev_events=prev_events,
        auth_events=auth_events,
        depth=stored.depth,
        origin_server_ts=stored.origin_server_ts,
        redacts=redacts,
        version=version,
        raw=raw,
    )


class _Citing(msgspec.Struct, gc=False):
    auth_events: tuple[Any, ...]


_CITING: Final = msgspec.json.Decoder(_Citing)


def load_auth_events(raw: bytes, version: RoomVersion) -> tuple[EventId, ...]:
    """Returns the auth events of an event of our own store, whose rest isn't read."""
    try:
        cited = _CITING.decode(raw).auth_events
    except RecursionError:
        cited = _decode_stored(raw).auth_events
    return cited if version.event_ids_are_hashes else tuple(entry[0] for entry in cited)


def client_event(event: Event) -> JsonObject:
    """Returns the event as clients get it, without `unsigned`; `content` is shared, so don't change
    it.

    A redaction has `redacts` both at the top level and in `content`, whatever the version
    (spec: room version 11, "Moving the redacts property"; client-server API, m.room.redaction).
    """
    shown: JsonObject = {
        "content": event.content,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
        "room_id": event.room_id,
        "sender": event.sender,
        "type": event.type,
    }
    if event.state_key is not None:
        shown["state_key"] = event.state_key
    if event.redacts is not None:
        shown["redacts"] = event.redacts
        if not event.version.redacts_in_content:
            shown["content"] = {**event.content, "redacts": event.redacts}
    return shown
