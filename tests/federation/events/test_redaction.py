"""Redaction: what each version keeps, idempotence, and that the event ID stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events import canonical_json, hashes
from federation.events.event import parse_pdu
from federation.events.redaction import redact, redact_content, redact_event
from federation.events.room_versions import ROOM_VERSIONS, RoomVersion, room_version
from federation.events.signatures import signature_payload

CONTENTS: dict[str, dict[str, Any]] = {
    "m.room.member": {
        "membership": "invite",
        "displayname": "x",
        "join_authorised_via_users_server": "@a:b",
        "third_party_invite": {"display_name": "x", "signed": {"token": "t"}},
    },
    "m.room.create": {"creator": "@a:b", "m.federate": False, "room_version": "x"},
    "m.room.join_rules": {"join_rule": "restricted", "allow": [], "extra": 1},
    "m.room.power_levels": {
        "ban": 1,
        "events": {},
        "events_default": 1,
        "invite": 1,
        "kick": 1,
        "notifications": {},
        "redact": 1,
        "state_default": 1,
        "users": {},
        "users_default": 1,
    },
    "m.room.aliases": {"aliases": ["#a:b"], "extra": 1},
    "m.room.history_visibility": {"history_visibility": "shared", "extra": 1},
    "m.room.redaction": {"redacts": "$a", "reason": "x"},
    "m.room.message": {"body": "x"},
}
LEVELS = {k for k in CONTENTS["m.room.power_levels"] if k not in ("invite", "notifications")}


@pytest.mark.parametrize(
    ("event_type", "first", "kept"),
    [
        ("m.room.member", 1, {"membership"}),
        ("m.room.member", 8, {"membership"}),
        ("m.room.member", 9, {"membership", "join_authorised_via_users_server"}),
        ("m.room.member", 10, {"membership", "join_authorised_via_users_server"}),
        (
            "m.room.member",
            11,
            {"membership", "join_authorised_via_users_server", "third_party_invite"},
        ),
        ("m.room.create", 10, {"creator"}),
        ("m.room.create", 11, {"creator", "m.federate", "room_version"}),
        ("m.room.join_rules", 7, {"join_rule"}),
        ("m.room.join_rules", 8, {"join_rule", "allow"}),
        ("m.room.power_levels", 10, LEVELS),
        ("m.room.power_levels", 11, LEVELS | {"invite"}),
        ("m.room.aliases", 5, {"aliases"}),
        ("m.room.aliases", 6, set()),
        ("m.room.history_visibility", 1, {"history_visibility"}),
        ("m.room.history_visibility", 12, {"history_visibility"}),
        ("m.room.redaction", 10, set()),
        ("m.room.redaction", 11, {"redacts"}),
        ("m.room.message", 12, set()),
    ],
)
def test_redaction_keeps_of_the_content_what_the_version_says(
    event_type: str, first: int, kept: set[str]
) -> None:
    content = CONTENTS[event_type]
    assert set(redact_content(event_type, content, room_version(str(first)))) == kept


def test_of_a_third_party_invite_only_signed_is_kept() -> None:
    version = room_version("11")
    kept = redact_content("m.room.member", CONTENTS["m.room.member"], version)
    assert kept["third_party_invite"] == {"signed": {"token": "t"}}
    oddities: list[object] = [{"display_name": "x"}, [], "x", None]
    for odd in oddities:
        content = {"membership": "invite", "third_party_invite": odd}
        assert redact_content("m.room.member", content, version) == {"membership": "invite"}


@pytest.mark.parametrize(("name", "kept"), [("10", True), ("11", False)])
def test_legacy_top_level_fields_are_kept_up_to_version_10(name: str, kept: bool) -> None:
    pdu = {"type": "x", "content": {}, "origin": "a", "membership": "b", "prev_state": [], "zz": 1}
    redacted = redact(pdu, room_version(name))
    assert ("origin" in redacted, "membership" in redacted, "prev_state" in redacted) == (kept,) * 3
    assert "zz" not in redacted


def test_unsigned_and_a_top_level_redacts_go() -> None:
    pdu = {"type": "m.room.redaction", "content": {}, "unsigned": {"a": 1}, "redacts": "$a"}
    assert redact(pdu, room_version("10")) == {"type": "m.room.redaction", "content": {}}


@pytest.mark.parametrize("content", [None, [], "x"])
def test_a_malformed_content_becomes_an_empty_one(content: object) -> None:
    assert redact({"type": "x", "content": content}, room_version("12"))["content"] == {}


PDUS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(list(CONTENTS)),
        "state_key": st.just(""),
        "sender": st.just("@a:b"),
        "depth": st.integers(1, 9),
        "origin_server_ts": st.integers(0, 9),
        "signatures": st.just({"b": {"ed25519:1": "AA"}}),
        "extra": st.integers(0, 3),
        "origin": st.just("b"),
        "redacts": st.just("$r:b"),
        "unsigned": st.just({"age": 1}),
    }
)


def in_format_of(version: RoomVersion, pdu: dict[str, Any]) -> dict[str, Any]:
    """Returns the PDU with what differs between the versions' formats."""
    pdu = {**pdu, "prev_events": ["$a"], "auth_events": ["$b"], "room_id": "!r:b"}
    if not version.event_ids_are_hashes:
        pdu["event_id"] = "$e:b"
        pdu["prev_events"] = [["$a:b", {"sha256": "AA"}]]
        pdu["auth_events"] = [["$b:b", {"sha256": "AA"}]]
    if version.room_id_is_create_hash:
        pdu["room_id"] = "!" + "r" * 43
        if pdu["type"] == "m.room.create":
            del pdu["room_id"]
    return pdu


@settings(deadline=None)
@given(PDUS, st.sampled_from(list(ROOM_VERSIONS)), st.data())
def test_redacting_is_idempotent_and_keeps_the_event_id(
    pdu: dict[str, Any], name: str, data: st.DataObject
) -> None:
    version = room_version(name)
    pdu = in_format_of(version, pdu)
    whole = CONTENTS[pdu["type"]]
    picked = data.draw(st.sets(st.sampled_from(sorted(whole))))
    pdu["content"] = {key: whole[key] for key in picked} | {"extra": 1}
    pdu["hashes"] = {"sha256": hashes.content_hash(pdu)}
    event = parse_pdu(pdu, version)
    once = redact_event(event)
    assert once.event_id == event.event_id
    assert redact_event(once).raw == once.raw
    assert redact(redact(pdu, version), version) == redact(pdu, version)
    again = parse_pdu(canonical_json.decode(once.raw), version)
    assert (again.event_id, again.room_id) == (event.event_id, event.room_id)
    assert again.raw == once.raw
    # What was signed is the redacted form, so its signatures stay good.
    assert signature_payload(once) == signature_payload(event)
    for name in ("type", "state_key", "sender", "depth", "prev_events", "auth_events"):
        assert getattr(once, name) == getattr(event, name)
