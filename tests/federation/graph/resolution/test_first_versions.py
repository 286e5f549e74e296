"""Room versions 1 and 2: event IDs made by servers, and what they cite by ID and hash."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from federation.events import canonical_json, hashes
from federation.events.event import InvalidEvent, load_event, parse_pdu
from federation.events.ids import EventId, ServerName
from federation.events.redaction import redact_event
from federation.events.room_versions import room_version
from federation.events.signatures import required_signers, signature_payload, signatures_of
from federation.events.signing import encode_base64
from federation.graph.building import Edges, EventDraft, build_event, references, sign_event
from tests.federation.graph.room_builder import ALICE, BOB, KEY, Room

first = pytest.mark.parametrize("name", ["1", "2"])


@first
def test_an_event_cites_others_by_id_and_reference_hash(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.room.message", BOB, {"body": "x"})
    pdu = canonical_json.decode(event.raw)
    (prev_id, prev_hashes), *_ = pdu["prev_events"]
    cited = canonical_json.decode(room.events[prev_id].raw)
    digest = sha256(hashes.reference_payload(cited, room.version)).digest()
    assert prev_hashes == {"sha256": encode_base64(digest)}
    assert [entry[0] for entry in pdu["auth_events"]] == list(event.auth_events)
    assert load_event(event.raw, event.version, event.event_id).auth_events == event.auth_events


@first
def test_an_event_id_is_made_by_the_senders_server_and_is_unique(name: str) -> None:
    room = Room(name).open_to(BOB)
    events = [room.send("m.x", BOB, {"n": n}, keep=False) for n in range(5)]
    assert len({event.event_id for event in events}) == 5
    for event in events:
        assert event.event_id.endswith(":b")
        assert canonical_json.decode(event.raw)["event_id"] == event.event_id
        assert required_signers(event) == {"b"}


@first
def test_an_event_of_ours_is_accepted_as_it_is_and_keeps_its_id_when_redacted(name: str) -> None:
    room = Room(name).open_to(BOB)
    for event in room.events.values():
        received = parse_pdu(canonical_json.decode(event.raw), room.version)
        assert received.event_id == event.event_id
        assert received.raw == event.raw
        assert not received.content_redacted
        made = signatures_of(event)[ServerName(event.sender.partition(":")[2])]
        KEY.verify_key.verify(signature_payload(event), made[KEY.key_id])
        assert redact_event(event).event_id == event.event_id
        assert signature_payload(redact_event(event)) == signature_payload(event)


@first
def test_what_is_cited_must_be_at_hand_to_be_hashed(name: str) -> None:
    version = room_version(name)
    draft = EventDraft("m.x", ALICE, {})
    options: dict[str, Any] = {
        "version": version,
        "room_id": "!r:a",
        "now_ms": 1,
        "server_name": ServerName("a"),
        "key": KEY,
    }
    assert build_event(draft, edges=Edges(), **options).prev_events == ()
    with pytest.raises(InvalidEvent):
        build_event(draft, edges=Edges([EventId("$e:a")]), **options)
    assert references(version, [], None) == []
    assert references(room_version("3"), [EventId("$e")], None) == ["$e"]


def template(**changes: Any) -> dict[str, Any]:
    return {
        "type": "m.room.member",
        "state_key": BOB,
        "sender": BOB,
        "room_id": "!r:a",
        "content": {"membership": "join"},
        "prev_events": [["$p:a", {"sha256": "AA"}]],
        "auth_events": [],
        "depth": 8,
        "origin_server_ts": 5,
        **changes,
    }


@first
@pytest.mark.parametrize("given", [{}, {"event_id": "$theirs:a"}])
def test_a_template_gets_an_event_id_of_the_server_that_fills_it_in(
    name: str, given: dict[str, Any]
) -> None:
    event = sign_event(template(**given), room_version(name), ServerName("b"), KEY)
    assert event.event_id.endswith(":b")
    assert event.prev_events == ("$p:a",)
    again = sign_event(canonical_json.decode(event.raw), room_version(name), ServerName("a"), KEY)
    assert again.event_id == event.event_id
    assert set(signatures_of(again)) == {"a", "b"}


@first
@pytest.mark.parametrize("event_id", ["$e", "e:b", "$e:", "$e:b c", "$" + "e" * 253 + ":b", 5])
def test_an_event_id_without_a_domain_is_refused(name: str, event_id: Any) -> None:
    pdu = canonical_json.decode(
        sign_event(template(), room_version(name), ServerName("b"), KEY).raw
    )
    parse_pdu({**pdu, "event_id": "$" + "e" * 252 + ":b"}, room_version(name))
    with pytest.raises(InvalidEvent):
        parse_pdu({**pdu, "event_id": event_id}, room_version(name))


@first
@pytest.mark.parametrize("entry", ["$p:a", ["$p:a"], ["$p:a", {}, 1], [5, {}], ["p", {}]])
def test_an_entry_that_is_no_pair_is_refused(name: str, entry: Any) -> None:
    for field in ("prev_events", "auth_events"):
        with pytest.raises(InvalidEvent):
            sign_event(template(**{field: [entry]}), room_version(name), ServerName("b"), KEY)
