"""Events: the format checks of each version, sizes on both sides, hashes, forms inside and out."""

from __future__ import annotations

from typing import Any

import pytest

from federation import limits
from federation.events import canonical_json, hashes
from federation.events.event import (
    Event,
    EventTooLarge,
    InvalidEvent,
    client_event,
    load_auth_events,
    load_event,
    parse_pdu,
)
from federation.events.redaction import redact_event
from federation.events.room_versions import RoomVersion, room_version

V10, V11, V12 = (room_version(name) for name in ("10", "11", "12"))
EVENT_ID = "$" + "a" * 43
HASH_ROOM = "!" + "r" * 43


def pdu_of(**changes: Any) -> dict[str, Any]:
    """Returns a valid PDU of versions 10 and 11; a change to None removes the field."""
    pdu: dict[str, Any] = {
        "type": "m.room.message",
        "room_id": "!r:domain",
        "sender": "@a:domain",
        "content": {"body": "hi"},
        "depth": 5,
        "origin_server_ts": 1_700_000_000_000,
        "prev_events": [EVENT_ID],
        "auth_events": [EVENT_ID],
        "signatures": {"domain": {"ed25519:1": "AA"}},
    }
    pdu.update(changes)
    pdu = {name: value for name, value in pdu.items() if value is not None}
    if "hashes" not in changes:
        try:
            pdu["hashes"] = {"sha256": hashes.content_hash(pdu)}
        except ValueError:
            pdu["hashes"] = {"sha256": "AA"}
    return pdu


def test_a_valid_pdu_is_parsed_with_all_its_fields() -> None:
    pdu = pdu_of(state_key="", unsigned={"age": 5}, extra={"kept": True})
    event = parse_pdu(pdu, V11)
    assert event.event_id == hashes.event_id_of(pdu, V11)
    assert (event.type, event.sender, event.room_id) == ("m.room.message", "@a:domain", "!r:domain")
    assert event.key == ("m.room.message", "")
    assert event.is_state
    assert (event.prev_events, event.auth_events) == ((EVENT_ID,), (EVENT_ID,))
    assert (event.depth, event.origin_server_ts) == (5, 1_700_000_000_000)
    assert not event.content_redacted
    del pdu["unsigned"]
    assert event.raw == canonical_json.encode(pdu)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": None},
        {"type": 1},
        {"sender": None},
        {"sender": "a:domain"},
        {"sender": "@a"},
        {"room_id": None},
        {"room_id": "!r"},
        {"room_id": HASH_ROOM},
        {"state_key": 5},
        {"content": None},
        {"content": []},
        {"content": {"a": 1.5}},
        {"content": {"a": 2**53}},
        {"content": {"a": "\ud800"}},
        {"type": "\ud800"},
        {"depth": None},
        {"depth": -1},
        {"depth": 2**53},
        {"depth": True},
        {"depth": "5"},
        {"origin_server_ts": None},
        {"origin_server_ts": "1"},
        {"prev_events": None},
        {"prev_events": "$a"},
        {"prev_events": ["a"]},
        {"prev_events": [5]},
        {"prev_events": [[EVENT_ID, {}]]},
        {"prev_events": [EVENT_ID] * (limits.PREV_EVENTS_MAX + 1)},
        {"auth_events": None},
        {"auth_events": [None]},
        {"auth_events": [EVENT_ID] * (limits.AUTH_EVENTS_MAX + 1)},
        {"signatures": None},
        {"signatures": {"domain": "x"}},
        {"signatures": {"domain": {"ed25519:1": 5}}},
        {"hashes": None},
        {"hashes": {}},
        {"hashes": {"sha256": 5}},
        {"redacts": 5},
    ],
)
def test_a_pdu_that_breaks_the_format_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        parse_pdu(pdu_of(**changes), V10)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 0},
        {"depth": limits.EVENT_DEPTH_MAX},
        {"origin_server_ts": -5},
        {"prev_events": [EVENT_ID] * limits.PREV_EVENTS_MAX},
        {"auth_events": [EVENT_ID] * limits.AUTH_EVENTS_MAX},
        {"prev_events": [], "auth_events": []},
        {"sender": "@A b:domain"},
        {"signatures": {}},
        {"type": "t" * 255},
        {"state_key": "é" * 127},
        {"content": {"nul": "\0", "a": [{}, None, True]}},
        {"redacts": EVENT_ID},
    ],
)
def test_a_pdu_at_the_edge_of_the_format_is_accepted(changes: dict[str, Any]) -> None:
    assert not parse_pdu(pdu_of(**changes), V10).content_redacted


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "t" * 256},
        {"state_key": "é" * 128},
        {"sender": "@" + "a" * 248 + ":domain"},
        {"room_id": "!" + "a" * 248 + ":domain"},
    ],
)
def test_a_field_longer_than_255_bytes_is_too_large(changes: dict[str, Any]) -> None:
    with pytest.raises(EventTooLarge):
        parse_pdu(pdu_of(**changes), V11)


@pytest.mark.parametrize("version", [V10, V11])
@pytest.mark.parametrize("field", ["type", "state_key", "sender"])
def test_a_lone_surrogate_is_refused_however_sizes_are_counted(
    version: RoomVersion, field: str
) -> None:
    with pytest.raises(InvalidEvent):
        parse_pdu(pdu_of(**{field: "@\ud800:d"}), version)


def test_an_event_may_have_65536_bytes_and_not_one_more() -> None:
    bare = len(canonical_json.encode(pdu_of(content={"body": ""})))
    body = "x" * (limits.EVENT_BYTES_MAX - bare)
    pdu = pdu_of(content={"body": body}, unsigned={"prev_content": "x" * 9})
    assert len(parse_pdu(pdu, V11).raw) == limits.EVENT_BYTES_MAX
    with pytest.raises(EventTooLarge):
        parse_pdu(pdu_of(content={"body": body + "x"}), V11)


def test_a_version_12_event_names_its_room_by_hash() -> None:
    assert parse_pdu(pdu_of(room_id=HASH_ROOM), V12).room_id == HASH_ROOM
    for room_id in ("!r:domain", None, "!short"):
        with pytest.raises(InvalidEvent):
            parse_pdu(pdu_of(room_id=room_id), V12)


def test_a_version_12_create_event_makes_its_room_id() -> None:
    pdu = pdu_of(type="m.room.create", state_key="", room_id=None, prev_events=[], auth_events=[])
    event = parse_pdu(pdu, V12)
    assert event.room_id == "!" + event.event_id[1:]
    assert load_event(event.raw, V12, event.event_id).room_id == event.room_id
    with pytest.raises(InvalidEvent):
        parse_pdu(pdu, V11)


def test_a_wrong_content_hash_redacts_the_event_and_keeps_its_id() -> None:
    pdu = pdu_of(type="m.room.member", state_key="@a:domain")
    pdu["content"] = {"membership": "join", "displayname": "changed on the way"}
    event = parse_pdu(pdu, V11)
    assert event.content_redacted
    assert event.content == {"membership": "join"}
    assert event.event_id == hashes.event_id_of(pdu, V11)
    assert event.raw == redact_event(event).raw


@pytest.mark.parametrize("digest", ["", "!!", "AAAA", "é"])
def test_a_content_hash_that_is_no_hash_redacts_too(digest: str) -> None:
    assert parse_pdu(pdu_of(hashes={"sha256": digest}), V11).content_redacted


def test_a_deep_event_is_parsed_and_loaded() -> None:
    content: dict[str, Any] = {}
    for _ in range(3000):
        content = {"k": content}
    event = parse_pdu(pdu_of(content=content), V11)
    loaded = load_event(event.raw, V11, event.event_id)
    assert load_auth_events(event.raw, V11) == event.auth_events
    assert canonical_json.encode(loaded.content) == canonical_json.encode(content)
    assert loaded.prev_events == event.prev_events
    assert redact_event(event).content == {}


def test_old_versions_admit_floats_and_large_depths() -> None:
    v5 = room_version("5")
    pdu = pdu_of(content={"x": 1.5}, depth=2**53, hashes={})
    pdu["hashes"] = {"sha256": hashes.content_hash(pdu, v5)}
    event = parse_pdu(pdu, v5)
    assert not event.content_redacted
    assert event.content == {"x": 1.5}
    with pytest.raises(InvalidEvent):
        parse_pdu({**pdu, "depth": 2**63}, v5)


def test_the_first_versions_name_events_by_pairs_and_make_ids() -> None:
    v1 = room_version("1")
    changes = {"event_id": "$e:domain", "prev_events": [["$p:domain", {"sha256": "AA"}]]}
    event = parse_pdu(pdu_of(auth_events=[], **changes), v1)
    assert event.event_id == "$e:domain"
    assert event.prev_events == ("$p:domain",)
    assert load_event(event.raw, v1, event.event_id).prev_events == ("$p:domain",)
    cited = parse_pdu(pdu_of(auth_events=[["$a:domain", {"sha256": "AA"}]], **changes), v1)
    assert load_auth_events(cited.raw, v1) == cited.auth_events == ("$a:domain",)
    for broken in ({"event_id": None}, {"prev_events": [EVENT_ID]}):
        with pytest.raises(InvalidEvent):
            parse_pdu(pdu_of(auth_events=[], **{**changes, **broken}), v1)


@pytest.mark.parametrize("version", [V10, V11])
def test_a_stored_event_loads_as_it_was(version: RoomVersion) -> None:
    for changes in ({}, {"state_key": "k"}, {"type": "m.room.redaction", "redacts": EVENT_ID}):
        event = parse_pdu(pdu_of(**changes), version)
        loaded = load_event(event.raw, version, event.event_id)
        assert load_auth_events(event.raw, version) == event.auth_events
        for name in Event.__struct_fields__:
            assert getattr(loaded, name) == getattr(event, name)


def test_a_redaction_shows_redacts_in_both_places_to_clients() -> None:
    old = parse_pdu(pdu_of(type="m.room.redaction", redacts=EVENT_ID, content={"reason": "x"}), V10)
    new = parse_pdu(
        pdu_of(type="m.room.redaction", content={"redacts": EVENT_ID, "reason": "x"}), V11
    )
    for event in (old, new):
        shown = client_event(event)
        assert shown["redacts"] == EVENT_ID
        assert shown["content"] == {"redacts": EVENT_ID, "reason": "x"}
    assert old.content == {"reason": "x"}


def test_redacts_counts_only_where_the_version_has_it() -> None:
    top = parse_pdu(pdu_of(type="m.room.redaction", redacts=EVENT_ID), V11)
    inside = parse_pdu(pdu_of(type="m.room.redaction", content={"redacts": EVENT_ID}), V10)
    other = parse_pdu(pdu_of(redacts=EVENT_ID), V10)
    odd = parse_pdu(pdu_of(type="m.room.redaction", content={"redacts": 5}), V11)
    for event in (top, inside, other, odd):
        assert event.redacts is None
        assert load_event(event.raw, event.version, event.event_id).redacts is None
        assert "redacts" not in client_event(event)


def test_clients_get_no_federation_fields() -> None:
    event = parse_pdu(pdu_of(unsigned={"age": 1}), V11)
    shown = {"content", "event_id", "origin_server_ts", "room_id", "sender", "type"}
    assert set(client_event(event)) == shown
    state = parse_pdu(pdu_of(state_key=""), V11)
    assert set(client_event(state)) == shown | {"state_key"}


def test_events_are_equal_by_id_and_short_in_logs() -> None:
    event = parse_pdu(pdu_of(), V11)
    again = load_event(event.raw, V11, event.event_id)
    assert event == again
    assert hash(event) == hash(again)
    assert event != event.event_id
    assert event != parse_pdu(pdu_of(depth=6), V11)
    assert "hi" not in repr(event)
    assert event.event_id in repr(event)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"type": "m.room.member", "content": {"membership": "join"}}, "join"),
        ({"type": "m.room.member", "content": {"membership": 5}}, None),
        ({"type": "m.room.member", "content": {}}, None),
        ({"type": "m.room.message", "content": {"membership": "join"}}, None),
    ],
)
def test_membership_is_that_of_member_events(changes: Any, expected: str | None) -> None:
    assert parse_pdu(pdu_of(state_key="@a:domain", **changes), V11).membership == expected
