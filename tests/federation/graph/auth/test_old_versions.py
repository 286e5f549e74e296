"""Rules that room versions 3 to 9 lack, flag by flag."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events import canonical_json, hashes
from federation.events.event import Event, load_event, parse_pdu
from federation.events.ids import EventId
from federation.events.room_versions import SUPPORTED, room_version
from federation.graph.auth.auth_rules import AuthRule, AuthState, check_auth
from tests.federation.graph.room_builder import ALICE, BOB, CAROL, EVE, Room


def rule_of(event: Event, state: AuthState) -> AuthRule | None:
    failure = check_auth(event, state)
    return None if failure is None else failure.rule


def room_with(name: str, rule: str) -> Room:
    room = Room(name).open_to(BOB, CAROL)
    room.join_rule(ALICE, rule)
    return room


@pytest.mark.parametrize(("name", "known"), [("6", False), ("7", True), ("9", True)])
def test_knocking_came_with_version_7(name: str, known: bool) -> None:
    room = room_with(name, "knock")
    knock = room.member(EVE, "knock", keep=False)
    expected = None if known else AuthRule.MEMBERSHIP_UNKNOWN
    assert rule_of(knock, room.auth_state()) is expected
    knocking = room.auth_state([knock])
    leave = room.member(EVE, "leave", keep=False)
    assert rule_of(leave, knocking) is (None if known else AuthRule.LEAVE_WITHOUT_MEMBERSHIP)
    invited = room.auth_state([room.member(ALICE, "invite", EVE, keep=False)])
    join = room.member(EVE, "join", keep=False)
    assert rule_of(join, invited) is (None if known else AuthRule.JOIN_RULE_FORBIDS)


@pytest.mark.parametrize(
    ("name", "rule", "known"),
    [
        ("7", "restricted", False),
        ("8", "restricted", True),
        ("9", "knock_restricted", False),
        ("10", "knock_restricted", True),
    ],
)
def test_restricted_joins_came_with_versions_8_and_10(name: str, rule: str, known: bool) -> None:
    room = room_with(name, rule)
    extra = {"join_authorised_via_users_server": CAROL}
    join = room.member(EVE, "join", extra=extra, keep=False)
    expected = None if known else AuthRule.JOIN_RULE_FORBIDS
    assert rule_of(join, room.auth_state()) is expected
    if rule == "knock_restricted":
        knock = room.member(EVE, "knock", keep=False)
        assert rule_of(knock, room.auth_state()) is (None if known else AuthRule.KNOCK_RULE)


@pytest.mark.parametrize("value", [5, "nobody"])
def test_an_authoriser_means_nothing_before_version_8(value: Any) -> None:
    extra = {"join_authorised_via_users_server": value}
    for name, expected in [("7", None), ("8", AuthRule.JOIN_UNSIGNED_BY_AUTHORISER)]:
        room = Room(name).open_to()
        assert rule_of(room.member(EVE, "join", extra=extra, keep=False), room.auth_state()) is (
            expected
        )


@pytest.mark.parametrize("name", list(SUPPORTED))
def test_an_event_of_any_supported_version_survives_the_way_to_another_server(name: str) -> None:
    version = room_version(name)
    for event in Room(name).open_to(BOB).events.values():
        received = parse_pdu(canonical_json.decode(event.raw), version)
        assert received.event_id == event.event_id
        assert received.raw == event.raw
        assert load_event(event.raw, version, event.event_id).content == event.content


def test_a_third_party_invite_signed_over_a_float_matches_no_key() -> None:
    v5 = room_version("5")
    room = Room("5").open_to()
    room.send("m.room.third_party_invite", ALICE, {"public_key": "A" * 43}, "t")
    signed = {"mxid": EVE, "token": "t", "x": 1.5, "signatures": {"i": {"ed25519:0": "AA"}}}
    event = room.member(
        ALICE, "invite", EVE, extra={"third_party_invite": {"signed": signed}}, keep=False
    )
    assert rule_of(event, room.auth_state()) is AuthRule.THIRD_PARTY_INVITE_UNSIGNED
    pdu = canonical_json.decode_lenient(event.raw)
    assert hashes.event_id_of(pdu, v5) == event.event_id


def test_version_3_event_ids_have_the_standard_alphabet() -> None:
    room = Room("3").open_to()
    ids = [room.send("m.x", ALICE, {"n": n}, keep=False).event_id for n in range(40)]
    assert any("/" in event_id or "+" in event_id for event_id in ids)
    assert not any("-" in event_id or "_" in event_id for event_id in ids)
    assert all(len(event_id) == 44 and EventId(event_id)[0] == "$" for event_id in ids)
