"""The largest event that each room version allows is accepted, and the next one isn't.

A limit that is stricter than the specification's would split rooms: other servers accept what we
drop, and all that rests on it.
"""

from __future__ import annotations

from typing import Any

import pytest

from federation import limits
from federation.events import canonical_json, hashes
from federation.events.event import (
    EventTooLarge,
    InvalidEvent,
    load_event,
    parse_pdu,
    parse_signed_pdu,
)
from federation.events.ids import ServerName
from federation.events.redaction import redact_event
from federation.events.room_versions import ROOM_VERSIONS, RoomVersion
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import SigningKey
from federation.graph.building import sign_event

versions = pytest.mark.parametrize("version", ROOM_VERSIONS.values(), ids=lambda row: row.name)
lenient = pytest.mark.parametrize(
    "version",
    [row for row in ROOM_VERSIONS.values() if not row.strict_canonical_json],
    ids=lambda row: row.name,
)
strict = pytest.mark.parametrize(
    "version",
    [row for row in ROOM_VERSIONS.values() if row.strict_canonical_json],
    ids=lambda row: row.name,
)
KEY = SigningKey.generate(b"\3" * 32, "1")


def cited(count: int, version: RoomVersion, size: int = 44) -> list[Any]:
    """So many event IDs of a size, as the version cites them."""
    ids = ["$" + f"{number:02}".rjust(size - 3, "e") for number in range(count)]
    if version.event_ids_are_hashes:
        return [text + "hh" for text in ids]
    return [[text + ":d", {"sha256": "A" * 43}] for text in ids]


def pdu_of(version: RoomVersion, **changes: Any) -> dict[str, Any]:
    """Returns a valid PDU of a version; a change to None removes the field."""
    pdu: dict[str, Any] = {
        "type": "m.room.message",
        "room_id": "!" + "r" * 43 if version.room_id_is_create_hash else "!r:d",
        "sender": "@a:d",
        "content": {"body": "hi"},
        "depth": 5,
        "origin_server_ts": 1,
        "prev_events": cited(1, version),
        "auth_events": cited(2, version),
        "signatures": {"d": {"ed25519:1": "A" * 86}},
    }
    if not version.event_ids_are_hashes:
        pdu["event_id"] = "$e:d"
    pdu.update(changes)
    pdu["hashes"] = {"sha256": "A" * 43}
    pdu["hashes"] = {"sha256": hashes.content_hash(pdu, version)}
    return pdu


def accept(version: RoomVersion, **changes: Any) -> None:
    """The event is accepted whole, and the same again when it is loaded and sent on."""
    event = parse_pdu(pdu_of(version, **changes), version)
    assert not event.content_redacted
    loaded = load_event(event.raw, version, event.event_id)
    again = parse_pdu(canonical_json.decode_lenient(loaded.raw), version)
    assert (again.raw, again.event_id) == (event.raw, event.event_id)
    assert again.room_id == loaded.room_id


def refuse(version: RoomVersion, **changes: Any) -> None:
    with pytest.raises(InvalidEvent):
        parse_pdu(pdu_of(version, **changes), version)


@versions
def test_an_event_has_65536_bytes_with_its_signatures_and_without_unsigned(
    version: RoomVersion,
) -> None:
    bare = len(hashes.encode_for(version, pdu_of(version, content={"body": ""})))
    body = "x" * (65_536 - bare)
    unsigned = {"age": 1, "prev_content": "x" * 70_000}
    pdu = pdu_of(version, content={"body": body}, unsigned=unsigned)
    event = parse_pdu(pdu, version)
    assert len(event.raw) == limits.EVENT_BYTES_MAX == 65_536
    with pytest.raises(EventTooLarge):
        parse_pdu(pdu_of(version, content={"body": body + "x"}), version)
    more = {"d": {"ed25519:1": "A" * 87}}
    with pytest.raises(EventTooLarge):
        parse_pdu({**pdu, "signatures": more}, version)


@versions
def test_size_is_that_of_canonical_json_not_of_what_was_sent(version: RoomVersion) -> None:
    # Each é is 2 bytes of UTF-8, and 6 in JSON that escapes it.
    bare = len(hashes.encode_for(version, pdu_of(version, content={"body": ""})))
    half = (65_536 - bare) // 2
    accept(version, content={"body": "é" * half})
    refuse(version, content={"body": "é" * (half + 1)})


@versions
def test_a_field_has_255_bytes(version: RoomVersion) -> None:
    assert limits.IDENTIFIER_BYTES_MAX == 255
    accept(version, type="t" * 255, state_key="é" * 127 + "k")
    accept(version, sender="@" + "a" * 252 + ":d")
    accept(version, sender="@" + "é" * 126 + ":d")
    refuse(version, type="t" * 256)
    refuse(version, sender="@" + "a" * 253 + ":d")
    in_bytes = (refuse, refuse) if version.field_sizes_in_bytes else (accept, refuse)
    for judge, size in zip(in_bytes, (255, 256), strict=True):
        judge(version, type="é" * size)
        judge(version, state_key="é" * size)
        judge(version, sender="@" + "é" * (size - 3) + ":d")
        if not version.room_id_is_create_hash:
            judge(version, room_id="!" + "é" * (size - 3) + ":d")
    if not version.room_id_is_create_hash:
        accept(version, room_id="!" + "r" * 252 + ":d")
        refuse(version, room_id="!" + "r" * 253 + ":d")
    if not version.event_ids_are_hashes:
        accept(version, event_id="$" + "e" * 252 + ":d")
        refuse(version, event_id="$" + "e" * 253 + ":d")


@versions
def test_an_event_cites_20_others_and_10_auth_events_with_long_ids(version: RoomVersion) -> None:
    accept(
        version, prev_events=cited(20, version, size=255), auth_events=cited(10, version, size=255)
    )
    accept(version, prev_events=[], auth_events=[])
    accept(version, prev_events=cited(1, version) * 20)
    refuse(version, prev_events=cited(21, version))
    refuse(version, auth_events=cited(11, version))
    refuse(version, prev_events=cited(1, version, size=256))


@versions
def test_depth_reaches_the_largest_integer(version: RoomVersion) -> None:
    strict = version.strict_canonical_json
    largest = limits.EVENT_DEPTH_MAX if strict else limits.EVENT_DEPTH_MAX_LENIENT
    assert largest == (2**53 - 1 if strict else 2**63 - 1)
    accept(version, depth=largest)
    accept(version, depth=0)
    refuse(version, depth=-1)
    with pytest.raises(InvalidEvent):
        parse_pdu({**pdu_of(version), "depth": largest + 1}, version)


@versions
def test_the_time_is_any_integer_of_the_format(version: RoomVersion) -> None:
    # PDU schema: int64; since version 6 canonical JSON has fewer.
    assert (limits.EVENT_TIME_MS_MIN, limits.EVENT_TIME_MS_MAX) == (-(2**63), 2**63 - 1)
    strict = version.strict_canonical_json
    largest = 2**53 - 1 if strict else limits.EVENT_TIME_MS_MAX
    smallest = -(2**53) + 1 if strict else limits.EVENT_TIME_MS_MIN
    for value in (largest, 0, smallest):
        accept(version, origin_server_ts=value)
    for value in (largest + 1, smallest - 1):
        with pytest.raises(InvalidEvent):
            parse_pdu({**pdu_of(version), "origin_server_ts": value}, version)


@lenient
def test_floats_and_large_integers_are_content_before_version_6(version: RoomVersion) -> None:
    accept(version, content={"a": [0.1, -1e-7, 1e300, 2**53, -(2**70), 10**1000]})
    for odd in (float("nan"), float("inf")):
        with pytest.raises(InvalidEvent):
            parse_pdu({**pdu_of(version), "content": {"a": odd}}, version)


@strict
@pytest.mark.parametrize("value", [0.5, 1.0, 2**53, -(2**53), float("nan"), 2**70, "\ud800"])
def test_what_is_no_canonical_json_is_refused_since_version_6(
    version: RoomVersion, value: Any
) -> None:
    for changes in ({"content": {"a": [value]}}, {"more": value}, {"signatures": {"d": value}}):
        with pytest.raises(InvalidEvent):
            parse_pdu({**pdu_of(version), **changes}, version)
    # What is not signed or hashed isn't looked at either.
    parse_pdu({**pdu_of(version), "unsigned": {"a": value}}, version)


@versions
def test_whatever_is_text_may_be_in_it(version: RoomVersion) -> None:
    odd = "\0\x1f\x7f\u2028\ufffe\U0010ffff'\"\\/"
    accept(version, type=odd, state_key=odd, content={odd: {odd: odd}}, **{odd: [odd]})
    accept(version, type="", state_key="", content={"": ""})
    for user in ("@:d", "@A B/\x01é:d", "@a:[::1]:8448", "@a:1.2.3.4", "@a:D.example", "@a:d:1"):
        accept(version, sender=user)


@versions
def test_unknown_fields_and_many_signatures_are_no_reason_to_refuse(version: RoomVersion) -> None:
    servers = {f"s{number}.example": {"ed25519:1": "A" * 86, "x:y": ""} for number in range(300)}
    accept(version, signatures=servers, more={"a": [None]}, origin=5, membership=[], prev_state={})
    accept(version, signatures={})
    accept(version, signatures={"no server name": {"": ""}})


@versions
def test_depth_of_nesting_is_no_reason_to_refuse(version: RoomVersion) -> None:
    # 30,000 is about as deep as 65,536 bytes get; the fast libraries give up at 253 and some 1,000.
    deep: Any = 0.5 if not version.strict_canonical_json else 5
    for _ in range(30_000 if version.name in ("1", "12") else 1_500):
        deep = [deep]
    template = pdu_of(version, type="m.room.create", content={"creator": deep})
    del template["hashes"], template["signatures"]
    event = sign_event(template, version, ServerName("d"), KEY)
    received = parse_pdu(canonical_json.decode_lenient(event.raw), version)
    assert (received.event_id, received.raw) == (event.event_id, event.raw)
    assert not received.content_redacted
    assert load_event(event.raw, version, event.event_id).content.keys() == {"creator"}
    redacted = redact_event(received)
    # The creator is kept up to version 10, all of a create event's content since version 11.
    assert redacted.content.keys() == {"creator"}
    assert signature_payload(redacted) == signature_payload(event)
    made = canonical_json.decode_lenient(event.raw)["signatures"]["d"][KEY.key_id]
    KEY.verify_key.verify(signature_payload(event), made)
    if version.event_ids_are_hashes:
        pdu = canonical_json.decode_lenient(redacted.raw)
        assert hashes.event_id_of(pdu, version) == event.event_id


@versions
@pytest.mark.parametrize("is_hash_right", [True, False])
def test_an_event_comes_with_what_its_signers_signed(
    version: RoomVersion, is_hash_right: bool
) -> None:
    pdu = pdu_of(version, signatures={"d": {"ed25519:1": "A" * 86}, "e": {"rsa:1": ""}})
    if not is_hash_right:
        pdu["content"] = {"body": "changed on the way"}
    signed = parse_signed_pdu(pdu, version)
    assert signed.event == parse_pdu(pdu, version)
    assert signed.event.content_redacted is not is_hash_right
    assert signed.payload == signature_payload(signed.event)
    assert signed.signatures == signatures_of(signed.event) == pdu["signatures"]
