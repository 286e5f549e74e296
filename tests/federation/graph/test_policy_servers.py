"""Policy servers: which rooms use one, and which events it recommends."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events import canonical_json
from federation.events.event import Event, load_event
from federation.events.ids import ServerName
from federation.events.room_versions import SUPPORTED
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import SigningKey
from federation.graph.admission import Accepted, SoftFailed, settle, signature_requirements
from federation.graph.auth.auth_rules import AuthFailure
from federation.graph.policy_servers import (
    POLICY_KEY_ID,
    NotRecommended,
    PolicyServer,
    check_policy,
    policy_server_of,
    recommended,
)
from federation.limits import EVENT_BYTES_MAX
from tests.federation.graph.room_builder import ALICE, BOB, EVE, Room

POLICY_KEY = SigningKey.generate(b"\x09" * 32, "policy_server")
OTHER_KEY = SigningKey.generate(b"\x0a" * 32, "policy_server")
POLICY = PolicyServer(ServerName("b"), POLICY_KEY.verify_key.encoded)
CONTENT = {"via": "b", "public_keys": {"ed25519": POLICY_KEY.verify_key.encoded}}


def signed(event: Event, key: SigningKey = POLICY_KEY, server: str = "b") -> Event:
    pdu = canonical_json.decode(event.raw)
    made = pdu["signatures"].setdefault(server, {})
    made[key.key_id] = key.sign(signature_payload(event))
    return load_event(canonical_json.encode(pdu), event.version, event.event_id)


def used(content: dict[str, Any], *, state_key: str = "", joined: str = "b") -> PolicyServer | None:
    room = Room("12").open_to(BOB)
    room.send("m.room.policy", ALICE, content, state_key)
    return policy_server_of(room.state.get, {ServerName(joined), ServerName("a")})


def test_a_room_uses_the_policy_server_that_its_state_names() -> None:
    assert POLICY_KEY.key_id == POLICY_KEY_ID
    assert used(CONTENT) == POLICY
    assert policy_server_of(Room("12").open_to().state.get, {ServerName("a")}) is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        {**CONTENT, "via": 5},
        {**CONTENT, "via": None},
        {**CONTENT, "public_keys": "x"},
        {**CONTENT, "public_keys": {}},
        {**CONTENT, "public_keys": {"ed25519": 5}},
    ],
)
def test_a_malformed_policy_is_none(content: dict[str, Any]) -> None:
    assert used(content) is None


def test_a_policy_server_has_a_joined_user_and_an_empty_state_key() -> None:
    assert used(CONTENT, joined="c") is None
    assert used(CONTENT, state_key="x") is None


@pytest.mark.parametrize("name", list(SUPPORTED))
def test_an_event_that_the_policy_server_signed_is_recommended(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.room.message", ALICE, {"body": "x"}, keep=False)
    assert check_policy(event, None) is None
    assert check_policy(signed(event), POLICY) is None
    assert check_policy(event, POLICY) == NotRecommended("b has not signed it")
    for wrong in (signed(event, OTHER_KEY), signed(event, POLICY_KEY, "c")):
        assert check_policy(wrong, POLICY) is not None
    broken_key = PolicyServer(POLICY.server, "no key")
    assert check_policy(signed(event), broken_key) is not None


def test_the_policy_event_itself_needs_no_recommendation() -> None:
    room = Room("12").open_to(BOB)
    for state_key, needs in [("", False), ("x", True), (None, True)]:
        event = room.send("m.room.policy", ALICE, CONTENT, state_key, keep=False)
        assert (check_policy(event, POLICY) is not None) is needs


def test_what_is_not_recommended_is_soft_failed_after_the_current_state_was_asked() -> None:
    room = Room("12").open_to(BOB)
    event = room.send("m.room.message", ALICE, {"body": "x"}, keep=False)
    state = room.auth_state()
    assert settle(event, state) == Accepted()
    assert settle(signed(event), state, policy=POLICY) == Accepted()
    verdict = settle(event, state, policy=POLICY)
    assert verdict == SoftFailed(NotRecommended("b has not signed it"))
    assert isinstance(verdict, SoftFailed)
    assert str(verdict.failure) == "not_recommended: b has not signed it"
    stranger = settle(room.send("m.x", EVE, {}, keep=False), state, policy=POLICY)
    assert isinstance(stranger, SoftFailed)
    assert isinstance(stranger.failure, AuthFailure)


def answer(event: Event, key: SigningKey = POLICY_KEY) -> dict[str, Any]:
    return {"b": {key.key_id: key.sign(signature_payload(event))}}


@pytest.mark.parametrize("name", list(SUPPORTED))
def test_an_answers_signature_is_added_and_nothing_else_changed(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.room.message", BOB, {"body": "ü"}, keep=False)  # of the same server, b
    found = recommended(event, POLICY, answer(event))
    assert isinstance(found, Event)
    assert check_policy(found, POLICY) is None
    assert found.event_id == event.event_id
    before, after = canonical_json.decode(event.raw), canonical_json.decode(found.raw)
    added = after["signatures"]["b"].pop("ed25519:policy_server")
    assert added
    assert after == before
    again = recommended(found, POLICY, answer(event))
    assert isinstance(again, Event)
    assert again.raw == found.raw


@pytest.mark.parametrize("made", [None, [], "x", {}, {"ed25519:policy_server": 5}, {"a": "b"}])
def test_an_answer_without_a_signature_recommends_nothing(made: object) -> None:
    event = Room("12").open_to(BOB).send("m.room.message", ALICE, {}, keep=False)
    assert recommended(event, POLICY, {"b": made}) == NotRecommended("b has not signed it")
    assert recommended(event, POLICY, {}) == NotRecommended("b has not signed it")


def test_an_answer_by_another_key_or_of_another_event_recommends_nothing() -> None:
    room = Room("12").open_to(BOB)
    event = room.send("m.room.message", ALICE, {"body": "x"}, keep=False)
    other = room.send("m.room.message", ALICE, {}, "", keep=False)
    for wrong in (answer(event, OTHER_KEY), answer(other)):
        assert isinstance(recommended(event, POLICY, wrong), NotRecommended)
    text = answer(event)["b"]["ed25519:policy_server"]
    for forged in ("\ud800", text[:-4], text + "!", "ü" * 86):
        found = recommended(event, POLICY, {"b": {"ed25519:policy_server": forged}})
        assert isinstance(found, NotRecommended)


def test_a_signature_that_would_make_the_event_too_large_is_not_taken() -> None:
    room = Room("12").open_to(BOB)
    small = room.send("m.room.message", ALICE, {"body": ""}, keep=False)
    signed = recommended(small, POLICY, answer(small))
    assert isinstance(signed, Event)
    spare = EVENT_BYTES_MAX - len(signed.raw)
    for length, fits in [(spare, True), (spare + 1, False)]:
        event = room.send("m.room.message", ALICE, {"body": "x" * length}, keep=False)
        found = recommended(event, POLICY, answer(event))
        assert isinstance(found, Event) is fits
    assert isinstance(found, NotRecommended)
    assert str(EVENT_BYTES_MAX) in found.detail


def test_a_policy_servers_signature_is_none_of_its_server() -> None:
    room = Room("12").open_to(BOB)
    event = signed(room.send("m.room.message", BOB, {}, keep=False))
    assert POLICY_KEY_ID in signatures_of(event)[ServerName("b")]
    assert POLICY_KEY_ID not in signature_requirements(event).servers[ServerName("b")]
