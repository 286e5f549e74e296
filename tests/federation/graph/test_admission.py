"""Admission as playbooks: what `admit` asks for, in which order, and the verdict it ends in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from federation.events import canonical_json
from federation.events.event import Event, load_event
from federation.events.ids import EventId, KeyId, ServerName, UserId
from federation.events.room_versions import SUPPORTED
from federation.events.signatures import signed_parts
from federation.events.signing import SigningKey, VerifyKey
from federation.graph.admission import (
    Accepted,
    Dropped,
    DropReason,
    KnownEvent,
    NeedAuthEvents,
    NeedKeys,
    NeedStateBefore,
    Rejected,
    SoftFailed,
    Verdict,
    Waiting,
    admit,
    admit_verified,
    check_auth_chain,
    needed_auth_events,
    settle,
    signature_requirements,
    verify_signatures,
)
from federation.graph.auth.auth_rules import AuthFailure, AuthRule, AuthState
from federation.graph.building import EventDraft, sign_event
from tests.federation.graph.room_builder import (
    ALICE,
    BOB,
    CAROL,
    EVE,
    KEY,
    SUPPORTED_NAMES,
    Room,
    event_of,
)

all_versions = pytest.mark.parametrize("name", SUPPORTED_NAMES)
OTHER_KEY = SigningKey.generate(b"\2" * 32, "k")
Keys = Mapping[tuple[ServerName, KeyId], VerifyKey]


def keys_for(*servers: str, key: SigningKey = KEY) -> Keys:
    return {(ServerName(server), key.key_id): key.verify_key for server in servers}


def known(room: Room, *rejected: Event) -> dict[EventId, KnownEvent]:
    return {
        event_id: KnownEvent(event, rejected=event in rejected)
        for event_id, event in room.events.items()
    }


class Playbook:
    """Runs `admit`, answering each need in turn, and keeps what was asked."""

    def __init__(self, *, keys: Keys, events: Any, state: AuthState | None) -> None:
        self.answers = {NeedKeys: keys, NeedAuthEvents: events, NeedStateBefore: state}
        self.asked: list[object] = []

    def run(self, event: Event, verified: frozenset[ServerName] | None = None) -> Verdict:
        if verified is None:
            admission = admit(signed_parts(event))
        else:
            admission = admit_verified(event, verified)
        answer: Any = None
        while True:
            try:
                need = admission.send(answer)
            except StopIteration as stop:
                verdict: Verdict = stop.value
                return verdict
            self.asked.append(need)
            answer = self.answers[type(need)]

    @property
    def kinds(self) -> list[type]:
        return [type(need) for need in self.asked]


def play(room: Room, event: Event, **changes: Any) -> tuple[Verdict, Playbook]:
    """Returns a run in which all is at hand, but for `changes`."""
    options: dict[str, Any] = {
        "keys": keys_for("a", "b", "c", "d", "e"),
        "events": known(room),
        "state": room.auth_state(),
        **changes,
    }
    book = Playbook(**options)
    return book.run(event), book


def rule_of(verdict: Verdict) -> AuthRule:
    assert isinstance(verdict, Rejected | SoftFailed)
    assert isinstance(verdict.failure, AuthFailure)
    return verdict.failure.rule


@all_versions
def test_the_checks_come_in_order_and_ask_for_what_they_need(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.room.message", BOB, {"body": "hi"}, keep=False)
    verdict, book = play(room, event)
    assert verdict == Accepted()
    keys, auth_events, state = book.asked
    # Before version 5 a key that was valid at any time serves.
    valid_at = event.origin_server_ts if event.version.enforce_key_validity else 0
    assert keys == NeedKeys({ServerName("b"): frozenset({KEY.key_id})}, valid_at)
    assert auth_events == NeedAuthEvents(frozenset((*event.auth_events, room.create.event_id)))
    assert state == NeedStateBefore(event)


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_event_of_a_sound_room_is_admitted(name: str) -> None:
    room = Room(name)
    for event in Room(name).open_to(BOB, CAROL).events.values():
        verdict, _ = play(room, event)
        assert verdict == Accepted()
        room.events[event.event_id] = event
        room.state[event.key] = event


@all_versions
def test_a_create_event_needs_keys_alone(name: str) -> None:
    room = Room(name)
    verdict, book = play(room, room.create)
    assert verdict == Accepted()
    assert book.kinds == [NeedKeys]


def test_a_create_event_against_the_rules_is_rejected() -> None:
    room = Room("11", create={"room_version": "unheard of"})
    verdict, _ = play(room, room.create)
    assert rule_of(verdict) is AuthRule.CREATE_VERSION_UNKNOWN


# --- check 2 ------------------------------------------------------------------------------------


def resigned(event: Event, signatures: Any) -> Event:
    pdu = {**canonical_json.decode(event.raw), "signatures": signatures}
    return load_event(canonical_json.encode(pdu), event.version, event.event_id)


@pytest.mark.parametrize(
    "signatures", [{}, {"b": {}}, {"a": {"ed25519:k": "AA"}}, {"b": {"x:1": ""}}]
)
def test_an_event_without_its_servers_signature_is_dropped(signatures: Any) -> None:
    room = Room("11").open_to(BOB)
    event = resigned(room.send("m.x", BOB, {}, keep=False), signatures)
    verdict, book = play(room, event)
    assert verdict == Dropped(DropReason.UNSIGNED)
    assert book.asked == []


@all_versions
def test_an_event_with_a_wrong_signature_is_dropped(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    verdict, book = play(room, event, keys=keys_for("b", key=OTHER_KEY))
    assert verdict == Dropped(DropReason.SIGNATURE_WRONG)
    assert book.kinds == [NeedKeys]


def test_an_event_whose_key_cannot_be_had_is_dropped_with_that_reason() -> None:
    room = Room("11").open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    assert play(room, event, keys={})[0] == Dropped(DropReason.KEY_UNAVAILABLE)


def test_unknown_keys_are_skipped_but_of_the_known_all_must_match() -> None:
    room = Room("11").open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    made = dict(signature_requirements(event).servers[ServerName("b")])
    extra = resigned(event, {"b": {**made, "ed25519:policy": "AA", "rsa:1": "AA"}})
    assert play(room, extra)[0] == Accepted()
    policy = VerifyKey(KeyId("ed25519:policy"), OTHER_KEY.verify_key.encoded)
    keys = {**keys_for("b"), (ServerName("b"), policy.key_id): policy}
    assert play(room, extra, keys=keys)[0] == Dropped(DropReason.SIGNATURE_WRONG)


def test_an_event_without_the_senders_signature_is_dropped_before_keys_are_asked_for() -> None:
    room = Room("11").open_to(BOB)
    event = room.member(EVE, "join", extra={"join_authorised_via_users_server": BOB}, keep=False)
    made = signature_requirements(event).servers[ServerName("e")]
    others = resigned(event, {"b": dict(made)})
    verdict, book = play(room, others)
    assert (verdict, book.kinds) == (Dropped(DropReason.UNSIGNED), [])
    # The same for a batch that was verified beside the checks.
    assert verify_signatures(signature_requirements(others), {}) is DropReason.UNSIGNED


def test_the_names_of_reasons_are_stable() -> None:
    assert all(reason.value == reason.name.lower() for reason in DropReason)


@pytest.mark.parametrize("state_key", [None, "x"])
def test_a_create_event_that_is_not_the_rooms_state_makes_no_room(state_key: str | None) -> None:
    room = Room("12")
    draft = EventDraft("m.room.create", ALICE, {"room_version": "12"}, state_key)
    create = event_of(room.version, None, draft)
    room.events[create.event_id] = create
    room.room_id = create.room_id
    join = room.member(ALICE, "join", prev=[create], auth=[], keep=False)
    verdict, book = play(room, join)
    assert rule_of(verdict) is AuthRule.STATE_WITHOUT_CREATE
    assert book.kinds == [NeedKeys, NeedAuthEvents]


def test_a_redacted_copy_verifies_like_the_whole_event() -> None:
    room = Room("11").open_to(BOB)
    event = room.send("m.x", BOB, {"body": "x"}, keep=False)
    pdu = {**canonical_json.decode(event.raw), "content": {}}
    redacted = load_event(canonical_json.encode(pdu), event.version, event.event_id)
    assert play(room, redacted)[0] == Accepted()


def test_signatures_verified_before_are_not_asked_for_again() -> None:
    room = Room("11").open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    book = Playbook(keys={}, events=known(room), state=room.auth_state())
    assert book.run(event, frozenset({ServerName("b")})) == Accepted()
    assert book.kinds == [NeedAuthEvents, NeedStateBefore]


def test_a_third_party_invite_needs_no_signature_of_the_sender() -> None:
    room = Room("11").open_to()
    event = room.member(
        ALICE, "invite", EVE, extra={"third_party_invite": {"signed": {}}}, keep=False
    )
    assert signature_requirements(event).servers == {}
    verdict, book = play(room, resigned(event, {}))
    assert rule_of(verdict) is AuthRule.THIRD_PARTY_INVITE_MALFORMED
    assert book.kinds == [NeedAuthEvents]


def test_a_restricted_join_without_the_authorisers_signature_is_rejected() -> None:
    room = Room("11").open_to(CAROL)
    room.join_rule(ALICE, "restricted")
    extra = {"join_authorised_via_users_server": CAROL}
    join = room.member(EVE, "join", extra=extra, keep=False)
    verdict, book = play(room, join)
    assert rule_of(verdict) is AuthRule.JOIN_UNSIGNED_BY_AUTHORISER
    signed = sign_event(canonical_json.decode(join.raw), join.version, ServerName("c"), KEY)
    verdict, book = play(room, signed)
    assert verdict == Accepted()
    assert isinstance(book.asked[0], NeedKeys)
    assert set(book.asked[0].servers) == {"c", "e"}
    verdict, _ = play(room, signed, keys=keys_for("e"))
    assert rule_of(verdict) is AuthRule.JOIN_UNSIGNED_BY_AUTHORISER


def test_an_unsigned_restricted_join_is_refused_for_that_first() -> None:
    room = Room("11").open_to(CAROL)
    room.join_rule(ALICE, "restricted")
    extra = {"join_authorised_via_users_server": CAROL}
    join = room.member(EVE, "join", extra=extra, keep=False)
    event_ids = [room.state["m.room.member", CAROL].event_id]
    rejected = [room.events[event_id] for event_id in event_ids]
    verdict, _ = play(room, join, events=known(room, *rejected))
    assert rule_of(verdict) is AuthRule.JOIN_UNSIGNED_BY_AUTHORISER


def test_signatures_may_be_verified_apart() -> None:
    room = Room("11").open_to(BOB)
    requirements = signature_requirements(room.send("m.x", BOB, {}, keep=False))
    assert verify_signatures(requirements, keys_for("b")) == frozenset({ServerName("b")})
    assert verify_signatures(requirements, {}) is DropReason.KEY_UNAVAILABLE
    wrong = keys_for("b", key=OTHER_KEY)
    assert verify_signatures(requirements, wrong) is DropReason.SIGNATURE_WRONG


# --- check 4 ------------------------------------------------------------------------------------


@all_versions
def test_an_event_waits_for_its_auth_events(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    for missing in needed_auth_events(event):
        events = known(room)
        del events[missing]
        verdict, book = play(room, event, events=events)
        assert verdict == Waiting(frozenset({missing}))
        assert book.kinds == [NeedKeys, NeedAuthEvents]


@all_versions
def test_an_event_with_a_rejected_auth_event_is_rejected_for_it(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    events = known(room, room.state["m.room.power_levels", ""])
    verdict, _ = play(room, event, events=events)
    assert rule_of(verdict) is AuthRule.AUTH_EVENT_REJECTED


def test_a_room_without_an_accepted_create_event_is_no_room() -> None:
    room = Room("12").open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    verdict, _ = play(room, event, events=known(room, room.create))
    assert rule_of(verdict) is AuthRule.ROOM_ID_NOT_OF_CREATE


@all_versions
def test_an_event_not_allowed_by_its_auth_events_is_rejected(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.room.topic", BOB, {}, "", keep=False)
    verdict, book = play(room, event)
    assert rule_of(verdict) is AuthRule.LEVEL_TOO_LOW
    assert NeedStateBefore not in book.kinds


@all_versions
def test_an_event_with_a_wrong_selection_is_rejected(name: str) -> None:
    room = Room(name).open_to(BOB)
    right = room.send("m.x", BOB, {}, keep=False)
    cited = [room.events[event_id] for event_id in right.auth_events]
    wrong = [*cited, room.state["m.room.join_rules", ""]]
    verdict, _ = play(room, room.send("m.x", BOB, {}, auth=wrong, keep=False))
    assert rule_of(verdict) is AuthRule.AUTH_EVENTS_UNEXPECTED


# --- check 5 ------------------------------------------------------------------------------------


@all_versions
def test_an_event_waits_for_the_state_before_it(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    verdict, _ = play(room, event, state=None)
    assert verdict == Waiting(frozenset(event.prev_events))


@all_versions
def test_an_event_not_allowed_by_the_state_before_it_is_rejected(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    banned = room.auth_state([room.member(ALICE, "ban", BOB, keep=False)])
    verdict, _ = play(room, event, state=banned)
    assert rule_of(verdict) is AuthRule.SENDER_NOT_JOINED


# --- check 6 ------------------------------------------------------------------------------------


@all_versions
def test_an_event_not_allowed_by_the_current_state_is_soft_failed(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    assert settle(event, room.auth_state()) == Accepted()
    verdict = settle(event, room.auth_state([room.member(ALICE, "ban", BOB, keep=False)]))
    assert isinstance(verdict, SoftFailed)
    assert rule_of(verdict) is AuthRule.SENDER_NOT_JOINED


# --- whole chains -------------------------------------------------------------------------------


@all_versions
def test_a_chain_is_checked_in_any_order(name: str) -> None:
    room = Room(name).open_to(BOB, CAROL)
    verdicts = check_auth_chain(reversed(room.events.values()))
    assert verdicts == dict.fromkeys(room.events, Accepted())


@all_versions
def test_in_a_chain_a_rejection_passes_to_what_rests_on_it(name: str) -> None:
    room = Room(name).open_to(BOB)
    bad = room.levels(BOB, {BOB: 100})
    after = room.send("m.room.topic", BOB, {}, "")
    verdicts = check_auth_chain(room.events.values())
    assert rule_of(verdicts[bad.event_id]) is AuthRule.LEVEL_TOO_LOW
    assert rule_of(verdicts[after.event_id]) is AuthRule.AUTH_EVENT_REJECTED


@all_versions
def test_in_a_chain_what_lacks_an_auth_event_waits_with_all_behind_it(name: str) -> None:
    room = Room(name).open_to(BOB)
    levels = room.state["m.room.power_levels", ""]
    events = [event for event in room.events.values() if event != levels]
    verdicts = check_auth_chain(events)
    waiting = {e for e, verdict in verdicts.items() if isinstance(verdict, Waiting)}
    rules, bob = room.state["m.room.join_rules", ""], room.state["m.room.member", BOB]
    assert waiting == {rules.event_id, bob.event_id}
    before = {levels.event_id: KnownEvent(levels)}
    assert set(check_auth_chain(events, known=before).values()) == {Accepted()}
    rejected = check_auth_chain(events, known={levels.event_id: KnownEvent(levels, rejected=True)})
    assert rule_of(rejected[bob.event_id]) is AuthRule.AUTH_EVENT_REJECTED


def test_in_a_chain_the_unsigned_are_dropped_and_those_behind_them_wait() -> None:
    room = Room("11").open_to(BOB)
    message = room.send("m.x", BOB, {})
    verdicts = check_auth_chain(room.events.values(), is_signed=lambda event, server: server != "b")
    join = room.state["m.room.member", BOB]
    assert verdicts[join.event_id] == Dropped(DropReason.UNSIGNED)
    assert verdicts[message.event_id] == Waiting(frozenset({join.event_id}))


def test_in_a_chain_a_restricted_join_needs_its_second_signature() -> None:
    room = Room("11").open_to(CAROL)
    room.join_rule(ALICE, "restricted")
    join = room.member(EVE, "join", extra={"join_authorised_via_users_server": CAROL})
    events = room.events.values()
    assert check_auth_chain(events)[join.event_id] == Accepted()
    verdicts = check_auth_chain(
        events, is_signed=lambda event, server: event != join or server == "e"
    )
    assert rule_of(verdicts[join.event_id]) is AuthRule.JOIN_UNSIGNED_BY_AUTHORISER


def test_events_that_cite_each_other_in_a_circle_wait() -> None:
    room = Room("11").open_to()
    first = room.send("m.x", ALICE, {})
    one, two = EventId("$" + "1" * 43), EventId("$" + "2" * 43)
    cited = canonical_json.encode(first.auth_events)

    def citing(event_id: EventId, other: EventId) -> Event:
        raw = first.raw.replace(cited, canonical_json.encode([other]))
        return load_event(raw, first.version, event_id)

    verdicts = check_auth_chain([citing(one, two), citing(two, one)])
    assert verdicts == {one: Waiting(frozenset({two})), two: Waiting(frozenset({one}))}


@pytest.mark.parametrize(("name", "enforced"), [("3", False), ("4", False), ("5", True)])
def test_keys_must_be_valid_at_the_events_time_since_version_5(name: str, enforced: bool) -> None:
    event = Room(name).open_to(BOB).state["m.room.member", BOB]
    expected = event.origin_server_ts if enforced else 0
    assert signature_requirements(event).need().valid_at_ms == expected


def test_of_two_create_events_of_one_room_each_gives_its_own_creator_the_power() -> None:
    # Up to version 11 one server can make two rooms of one ID, and tell both as one chain.
    first, second = Room("11"), Room("11", creator=UserId("@mallory:a"))
    events = [*first.events.values(), *second.events.values()]
    for room in (first, second):
        creator = room.create.sender
        room.member(creator, "join")
        events += [room.last, room.send("m.room.name", creator, {}, "", ts=5)]
    for order in (events, events[::-1]):
        assert set(check_auth_chain(order).values()) == {Accepted()}
