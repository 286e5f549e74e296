"""Building events: what is built passes every check that a receiver makes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import limits
from federation.events import canonical_json, hashes
from federation.events.event import Event, EventTooLarge, InvalidEvent, load_event, parse_pdu
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.events.room_versions import SUPPORTED, room_version
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import SignatureInvalid, SigningKey
from federation.graph.building import Edges, EventDraft, build_event, sign_event, unsigned_event
from tests.federation.graph.room_builder import ALICE, BOB, KEY

OTHER_KEY = SigningKey.generate(b"\3" * 32, "other")
# The others make event IDs themselves: see test_first_versions.
NAMES = [name for name, row in SUPPORTED.items() if row.event_ids_are_hashes]
ROOMS = {**dict.fromkeys(NAMES, RoomId("!r:a")), "12": RoomId("!" + "r" * 43)}
EVENT_ID = EventId("$" + "p" * 43)
all_versions = pytest.mark.parametrize("name", NAMES)


def build(name: str, draft: EventDraft, **changes: Any) -> Event:
    edges = {"prev_events": [EVENT_ID], "auth_events": [EVENT_ID], "depth": 7}
    changed: dict[str, Any] = {name: changes.pop(name, value) for name, value in edges.items()}
    options: dict[str, Any] = {
        "version": room_version(name),
        "room_id": ROOMS[name],
        "edges": Edges(**changed),
        "now_ms": 1234,
        "server_name": ServerName("a"),
        "key": KEY,
        **changes,
    }
    return build_event(draft, **options)


def message(**content: Any) -> EventDraft:
    return EventDraft("m.room.message", ALICE, content)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
CONTENTS = st.dictionaries(
    TEXT, TEXT | st.integers(-9, 9) | st.booleans() | st.lists(TEXT, max_size=2), max_size=4
)
TYPES = ["m.room.message", "m.room.member", "m.room.power_levels", "m.room.redaction", "é"]


@settings(deadline=None)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(TYPES),
    CONTENTS,
    st.none() | TEXT,
    st.none() | st.just(EVENT_ID),
)
def test_what_is_built_is_what_a_receiver_parses(
    name: str,
    event_type: str,
    content: dict[str, Any],
    state_key: str | None,
    redacts: EventId | None,
) -> None:
    version = room_version(name)
    built = build(name, EventDraft(event_type, ALICE, content, state_key, redacts))
    pdu = canonical_json.decode(built.raw)
    assert canonical_json.encode(pdu) == built.raw
    received = parse_pdu(pdu, version)
    assert not received.content_redacted
    for field in Event.__struct_fields__:
        assert getattr(built, field) == getattr(received, field)
    assert built.event_id == hashes.event_id_of(pdu, version)
    signature = signatures_of(received)[ServerName("a")][KEY.key_id]
    KEY.verify_key.verify(signature_payload(received), signature)


def test_a_version_12_create_event_gets_its_room_id_from_its_hash() -> None:
    draft = EventDraft("m.room.create", ALICE, {"room_version": "12"}, "")
    created = build("12", draft, room_id=None, prev_events=[], auth_events=[])
    assert created.room_id == "!" + created.event_id[1:]
    assert b"room_id" not in created.raw
    assert parse_pdu(canonical_json.decode(created.raw), created.version) == created
    with pytest.raises(InvalidEvent):
        build("12", draft)


@all_versions
def test_every_other_event_needs_a_room_id(name: str) -> None:
    with pytest.raises(InvalidEvent):
        build(name, message(), room_id=None)


@all_versions
def test_redacts_goes_where_the_version_has_it(name: str) -> None:
    event = build(name, EventDraft("m.room.redaction", ALICE, {"reason": "x"}, redacts=EVENT_ID))
    pdu = canonical_json.decode(event.raw)
    assert event.redacts == EVENT_ID
    assert ("redacts" in pdu) is (name not in ("11", "12"))
    assert ("redacts" in pdu["content"]) is (name in ("11", "12"))


def test_the_time_is_now_unless_the_draft_says_otherwise() -> None:
    assert build("11", message()).origin_server_ts == 1234
    draft = EventDraft("m.room.message", ALICE, {}, origin_server_ts=99)
    assert build("11", draft).origin_server_ts == 99


def test_depth_is_capped() -> None:
    assert build("11", message(), depth=2**60).depth == limits.EVENT_DEPTH_MAX


@pytest.mark.parametrize(
    "draft",
    [
        message(x=1.5),
        message(x=2**53),
        message(x="\ud800"),
        message(x=float("nan")),
        EventDraft("m.room.message", UserId("alice"), {}),
        EventDraft("m.room.message", ALICE, [], None),  # type: ignore[arg-type]
        EventDraft(5, ALICE, {}),  # type: ignore[arg-type]
        EventDraft("\ud800", ALICE, {}),
        EventDraft("x", ALICE, {}, 5),  # type: ignore[arg-type]
        EventDraft("x", ALICE, {}, origin_server_ts=2**53),
        EventDraft("x", ALICE, {}, origin_server_ts=1.0),  # type: ignore[arg-type]
    ],
)
def test_a_draft_that_makes_no_event_is_refused(draft: EventDraft) -> None:
    with pytest.raises(InvalidEvent):
        build("11", draft)


@pytest.mark.parametrize(
    "changes",
    [
        {"prev_events": [EVENT_ID] * (limits.PREV_EVENTS_MAX + 1)},
        {"auth_events": [EVENT_ID] * (limits.AUTH_EVENTS_MAX + 1)},
        {"version": room_version("1")},
    ],
)
def test_too_many_edges_and_old_versions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        build("11", message(), **changes)


def test_fields_and_events_have_their_size_and_not_one_byte_more() -> None:
    build("11", EventDraft("t" * 255, ALICE, {}, "é" * 127))
    for draft in (EventDraft("t" * 256, ALICE, {}), EventDraft("t", ALICE, {}, "é" * 128)):
        with pytest.raises(EventTooLarge):
            build("11", draft)
    room = limits.EVENT_BYTES_MAX - len(build("11", message(body="")).raw)
    assert len(build("11", message(body="x" * room)).raw) == limits.EVENT_BYTES_MAX
    with pytest.raises(EventTooLarge):
        build("11", message(body="x" * (room + 1)))


def test_a_deep_content_is_built() -> None:
    content: dict[str, Any] = {}
    for _ in range(2000):
        content = {"k": content}
    event = build("11", EventDraft("m.room.message", ALICE, content))
    assert load_event(event.raw, event.version, event.event_id).event_id == event.event_id


# --- signing what came as JSON ------------------------------------------------------------------


def template(**changes: Any) -> dict[str, Any]:
    """Returns what make_join answers."""
    return {
        "type": "m.room.member",
        "state_key": BOB,
        "sender": BOB,
        "room_id": "!r:a",
        "content": {"membership": "join"},
        "prev_events": [EVENT_ID],
        "auth_events": [EVENT_ID],
        "depth": 8,
        "origin_server_ts": 5,
        **changes,
    }


@pytest.mark.parametrize("stale", [{}, {"hashes": {"sha256": "AAAA"}}, {"unsigned": {"age": 1}}])
def test_a_template_is_hashed_and_signed(stale: dict[str, Any]) -> None:
    event = sign_event(template(**stale), room_version("11"), ServerName("b"), KEY)
    assert not event.content_redacted
    signature = signatures_of(event)[ServerName("b")][KEY.key_id]
    KEY.verify_key.verify(signature_payload(event), signature)
    with pytest.raises(SignatureInvalid):
        OTHER_KEY.verify_key.verify(signature_payload(event), signature)


def test_a_second_server_signs_beside_the_first_and_keeps_the_id() -> None:
    first = sign_event(template(), room_version("11"), ServerName("b"), KEY)
    pdu = canonical_json.decode(first.raw)
    second = sign_event(pdu, first.version, ServerName("a"), OTHER_KEY)
    assert second.event_id == first.event_id
    payload = signature_payload(second)
    made = signatures_of(second)
    KEY.verify_key.verify(payload, made[ServerName("b")][KEY.key_id])
    OTHER_KEY.verify_key.verify(payload, made[ServerName("a")][OTHER_KEY.key_id])


def test_what_was_changed_after_the_first_signature_is_not_signed() -> None:
    pdu = canonical_json.decode(
        sign_event(template(), room_version("11"), ServerName("b"), KEY).raw
    )
    pdu["content"] = {"membership": "join", "displayname": "x"}
    with pytest.raises(InvalidEvent):
        sign_event(pdu, room_version("11"), ServerName("a"), OTHER_KEY)


@pytest.mark.parametrize(
    "changes",
    [{"content": 5}, {"type": None}, {"depth": -1}, {"content": {"x": 1.5}}, {"sender": "bob"}],
)
def test_a_template_that_makes_no_event_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        sign_event(template(**changes), room_version("11"), ServerName("b"), KEY)


@all_versions
def test_an_unsigned_event_says_what_the_signed_one_will(name: str) -> None:
    draft = EventDraft("m.room.member", ALICE, {"membership": "join"}, ALICE)
    signed = build(name, draft, auth_events=[])
    unsigned = unsigned_event(
        draft,
        version=signed.version,
        room_id=signed.room_id,
        prev_events=[EVENT_ID],
        depth=7,
        time_ms=1234,
    )
    own = {"event_id": signed.event_id, "raw": signed.raw}
    assert msgspec.structs.asdict(unsigned) | own == msgspec.structs.asdict(signed)
