"""Auth rules of m.room.member: each rule with what it allows and what it forbids."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.event import Event
from federation.events.ids import UserId
from federation.events.signing import SigningKey, sign_json
from federation.graph.auth.auth_rules import AuthRule, AuthState, check_auth
from tests.federation.graph.room_builder import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    EVE,
    SUPPORTED_NAMES,
    Room,
)

pytestmark = pytest.mark.parametrize("name", SUPPORTED_NAMES)  # see also test_old_versions

AUTHORISER = "join_authorised_via_users_server"


def rule_of(event: Event, state: AuthState, **options: Any) -> AuthRule | None:
    failure = check_auth(event, state, **options)
    return None if failure is None else failure.rule


def room_with(name: str, rule: str = "public") -> Room:
    """Alice 100 (or creator), Carol 50, Bob 0, all joined; Dave banned; Eve never there."""
    room = Room(name).open_to(BOB, CAROL, DAVE, levels={CAROL: 50})
    room.member(ALICE, "ban", DAVE)
    if rule != "public":
        room.join_rule(ALICE, rule)
    return room


def with_membership(room: Room, user: UserId, membership: str) -> AuthState:
    return room.auth_state([room.member(ALICE, membership, user, keep=False)])


def test_a_member_event_needs_a_state_key_and_a_membership(name: str) -> None:
    room = room_with(name)
    state = room.auth_state()
    bare = room.send("m.room.member", EVE, {"membership": "join"}, None, keep=False)
    assert rule_of(bare, state) is AuthRule.MEMBER_MALFORMED
    empty = room.send("m.room.member", EVE, {}, EVE, keep=False)
    assert rule_of(empty, state) is AuthRule.MEMBER_MALFORMED


@pytest.mark.parametrize("membership", ["", "owner", 5, None, ["join"], {"a": 1}])
def test_an_unknown_membership_is_refused(name: str, membership: Any) -> None:
    room = room_with(name)
    event = room.send("m.room.member", EVE, {"membership": membership}, EVE, keep=False)
    assert rule_of(event, room.auth_state()) is AuthRule.MEMBERSHIP_UNKNOWN


def test_the_creator_joins_right_after_the_create_event(name: str) -> None:
    room = Room(name)
    assert rule_of(room.member(ALICE, "join", keep=False), room.auth_state()) is None
    other = room.member(BOB, "join", keep=False)
    assert rule_of(other, room.auth_state()) is AuthRule.JOIN_WITHOUT_INVITE
    room.member(ALICE, "join")
    later = room.member(BOB, "join", ALICE, keep=False)
    assert rule_of(later, room.auth_state()) is AuthRule.JOIN_OF_OTHER_USER


def test_the_creator_is_who_the_content_names_up_to_version_10_and_the_sender_since(
    name: str,
) -> None:
    room = Room(name, create={"creator": BOB})
    by_content = room.version.creator_in_content
    named, sender = room.member(BOB, "join", keep=False), room.member(ALICE, "join", keep=False)
    refused = AuthRule.JOIN_WITHOUT_INVITE
    assert rule_of(named, room.auth_state()) is (None if by_content else refused)
    assert rule_of(sender, room.auth_state()) is (refused if by_content else None)


def test_users_join_themselves_only(name: str) -> None:
    room = room_with(name)
    assert rule_of(room.member(EVE, "join", keep=False), room.auth_state()) is None
    other = room.member(ALICE, "join", EVE, keep=False)
    assert rule_of(other, room.auth_state()) is AuthRule.JOIN_OF_OTHER_USER


def test_the_banned_do_not_join_even_a_public_room(name: str) -> None:
    room = room_with(name)
    assert rule_of(room.member(DAVE, "join", keep=False), room.auth_state()) is (
        AuthRule.JOIN_WHILE_BANNED
    )


@pytest.mark.parametrize("rule", ["invite", "knock"])
def test_a_join_by_invitation_needs_one(name: str, rule: str) -> None:
    room = room_with(name, rule)
    join = room.member(EVE, "join", keep=False)
    again = room.member(BOB, "join", keep=False)
    known = rule == "invite" or room.version.knock
    refused = AuthRule.JOIN_WITHOUT_INVITE if known else AuthRule.JOIN_RULE_FORBIDS
    invited = None if known else refused
    assert rule_of(join, room.auth_state()) is refused
    assert rule_of(join, with_membership(room, EVE, "knock")) is refused
    assert rule_of(join, with_membership(room, EVE, "leave")) is refused
    assert rule_of(join, with_membership(room, EVE, "invite")) is invited
    assert rule_of(again, room.auth_state()) is invited


def test_without_join_rules_a_room_is_by_invitation(name: str) -> None:
    room = room_with(name)
    state = room.without(("m.room.join_rules", ""))
    assert rule_of(room.member(EVE, "join", keep=False), state) is AuthRule.JOIN_WITHOUT_INVITE
    odd = room.auth_state([room.send("m.room.join_rules", ALICE, {"join_rule": 5}, "", keep=False)])
    assert rule_of(room.member(EVE, "join", keep=False), odd) is AuthRule.JOIN_WITHOUT_INVITE


@pytest.mark.parametrize("rule", ["private", "Public", "x" * 3000])
def test_another_join_rule_lets_nobody_in(name: str, rule: str) -> None:
    room = room_with(name, rule)
    failure = check_auth(room.member(EVE, "join", keep=False), room.auth_state())
    assert failure is not None
    assert failure.rule is AuthRule.JOIN_RULE_FORBIDS
    assert len(str(failure)) < 200


@pytest.mark.parametrize("rule", ["restricted", "knock_restricted"])
def test_a_restricted_join_is_authorised_by_a_member_who_may_invite(name: str, rule: str) -> None:
    room = room_with(name)
    room.levels(ALICE, _users(room), extra={"invite": 50})
    room.join_rule(ALICE, rule)

    def join(authoriser: object) -> Event:
        extra = {} if authoriser is None else {AUTHORISER: authoriser}
        return room.member(EVE, "join", extra=extra, keep=False)

    state = room.auth_state()
    version = room.version
    if not (version.restricted_joins if rule == "restricted" else version.knock_restricted):
        assert rule_of(join(CAROL), state) is AuthRule.JOIN_RULE_FORBIDS
        assert rule_of(room.member(BOB, "join", keep=False), state) is AuthRule.JOIN_RULE_FORBIDS
        return
    assert rule_of(join(CAROL), state) is None
    assert rule_of(join(ALICE), state) is None
    assert rule_of(join(BOB), state) is AuthRule.JOIN_NOT_AUTHORISED  # level 0 of 50
    assert rule_of(join(None), state) is AuthRule.JOIN_NOT_AUTHORISED
    gone = room.auth_state([room.member(CAROL, "leave", keep=False)])
    assert rule_of(join(CAROL), gone) is AuthRule.JOIN_NOT_AUTHORISED  # no longer joined
    assert rule_of(join(None), with_membership(room, EVE, "invite")) is None
    assert rule_of(room.member(BOB, "join", keep=False), state) is None


def _users(room: Room) -> dict[str, int]:
    return dict(room.state["m.room.power_levels", ""].content["users"])


def test_the_authorising_server_must_have_signed(name: str) -> None:
    room = room_with(name, "restricted")
    join = room.member(EVE, "join", extra={AUTHORISER: CAROL}, keep=False)
    state = room.auth_state()
    signed = rule_of(join, state, verified_servers=frozenset({"c", "e"}))
    unsigned = rule_of(join, state, verified_servers=frozenset({"e"}))
    if not room.version.restricted_joins:
        assert signed is unsigned is AuthRule.JOIN_RULE_FORBIDS
        return
    assert signed is None
    assert unsigned is AuthRule.JOIN_UNSIGNED_BY_AUTHORISER


@pytest.mark.parametrize("value", [5, "carol", None, ["@carol:c"]])
def test_an_authoriser_that_is_no_user_is_refused_whatever_the_membership(
    name: str, value: Any
) -> None:
    room = room_with(name)
    leave = room.member(BOB, "leave", extra={AUTHORISER: value}, keep=False)
    refused = AuthRule.JOIN_UNSIGNED_BY_AUTHORISER if room.version.restricted_joins else None
    assert rule_of(leave, room.auth_state()) is refused


def test_only_the_joined_invite(name: str) -> None:
    room = room_with(name)
    assert rule_of(room.member(BOB, "invite", EVE, keep=False), room.auth_state()) is None
    stranger = room.member(EVE, "invite", UserId("@x:x"), keep=False)
    assert rule_of(stranger, room.auth_state()) is AuthRule.INVITE_BY_NON_MEMBER


def test_neither_the_joined_nor_the_banned_are_invited(name: str) -> None:
    room = room_with(name)
    for target in (BOB, DAVE):
        event = room.member(ALICE, "invite", target, keep=False)
        assert rule_of(event, room.auth_state()) is AuthRule.INVITE_OF_MEMBER_OR_BANNED
    for membership in ("invite", "leave", "knock"):
        again = room.member(ALICE, "invite", EVE, keep=False)
        assert rule_of(again, with_membership(room, EVE, membership)) is None


def test_inviting_takes_the_invite_level(name: str) -> None:
    room = room_with(name)
    room.levels(ALICE, _users(room), extra={"invite": 50})
    assert rule_of(room.member(CAROL, "invite", EVE, keep=False), room.auth_state()) is None
    low = room.member(BOB, "invite", EVE, keep=False)
    assert rule_of(low, room.auth_state()) is AuthRule.INVITE_LEVEL


@pytest.mark.parametrize("membership", ["invite", "join", "knock"])
def test_users_leave_what_they_have_part_in(name: str, membership: str) -> None:
    room = room_with(name)
    leave = room.member(EVE, "leave", keep=False)
    known = membership != "knock" or room.version.knock
    refused = None if known else AuthRule.LEAVE_WITHOUT_MEMBERSHIP
    assert rule_of(leave, with_membership(room, EVE, membership)) is refused


@pytest.mark.parametrize("membership", ["leave", "ban"])
def test_users_do_not_leave_what_they_have_no_part_in(name: str, membership: str) -> None:
    room = room_with(name)
    leave = room.member(EVE, "leave", keep=False)
    expected = AuthRule.LEAVE_WITHOUT_MEMBERSHIP
    assert rule_of(leave, with_membership(room, EVE, membership)) is expected
    assert rule_of(leave, room.auth_state()) is expected


def test_kicking_takes_membership_the_level_and_more_power(name: str) -> None:
    room = room_with(name)
    state = room.auth_state()
    assert rule_of(room.member(CAROL, "leave", BOB, keep=False), state) is None
    cases = [
        (EVE, BOB, AuthRule.KICK_BY_NON_MEMBER),
        (BOB, EVE, AuthRule.KICK_LEVEL),  # below the kick level
        (CAROL, ALICE, AuthRule.KICK_LEVEL),  # the target has more
    ]
    for sender, target, expected in cases:
        assert rule_of(room.member(sender, "leave", target, keep=False), state) is expected
    room.levels(ALICE, {**_users(room), BOB: 50})
    equal = room.member(CAROL, "leave", BOB, keep=False)
    assert rule_of(equal, room.auth_state()) is AuthRule.KICK_LEVEL


def test_unbanning_takes_the_ban_level_too(name: str) -> None:
    room = room_with(name)
    unban = room.member(CAROL, "leave", DAVE, keep=False)
    assert rule_of(unban, room.auth_state()) is None
    room.levels(ALICE, _users(room), extra={"ban": 60})
    assert rule_of(unban, room.auth_state()) is AuthRule.UNBAN_LEVEL
    kick = room.member(CAROL, "leave", BOB, keep=False)
    assert rule_of(kick, room.auth_state()) is None


def test_banning_takes_membership_the_level_and_more_power(name: str) -> None:
    room = room_with(name)
    state = room.auth_state()
    for target in (BOB, EVE):
        assert rule_of(room.member(CAROL, "ban", target, keep=False), state) is None
    cases = [
        (EVE, BOB, AuthRule.BAN_BY_NON_MEMBER),
        (BOB, EVE, AuthRule.BAN_LEVEL),
        (CAROL, ALICE, AuthRule.BAN_LEVEL),
        (CAROL, CAROL, AuthRule.BAN_LEVEL),
    ]
    for sender, target, expected in cases:
        assert rule_of(room.member(sender, "ban", target, keep=False), state) is expected


@pytest.mark.parametrize("rule", ["knock", "knock_restricted"])
def test_users_knock_where_the_join_rule_has_it(name: str, rule: str) -> None:
    room = room_with(name, rule)
    knock = room.member(EVE, "knock", keep=False)
    version = room.version
    if not version.knock:
        assert rule_of(knock, room.auth_state()) is AuthRule.MEMBERSHIP_UNKNOWN
        return
    if rule == "knock_restricted" and not version.knock_restricted:
        assert rule_of(knock, room.auth_state()) is AuthRule.KNOCK_RULE
        return
    assert rule_of(knock, room.auth_state()) is None
    assert rule_of(knock, with_membership(room, EVE, "leave")) is None
    assert rule_of(knock, with_membership(room, EVE, "knock")) is None
    other = room.member(BOB, "knock", EVE, keep=False)
    assert rule_of(other, room.auth_state()) is AuthRule.KNOCK_OF_OTHER_USER


@pytest.mark.parametrize("rule", ["public", "invite", "restricted", "private"])
def test_users_do_not_knock_elsewhere(name: str, rule: str) -> None:
    room = room_with(name, rule)
    knock = room.member(EVE, "knock", keep=False)
    refused = AuthRule.KNOCK_RULE if room.version.knock else AuthRule.MEMBERSHIP_UNKNOWN
    assert rule_of(knock, room.auth_state()) is refused


@pytest.mark.parametrize("membership", ["ban", "invite", "join"])
def test_who_is_banned_invited_or_joined_does_not_knock(name: str, membership: str) -> None:
    room = room_with(name, "knock")
    knock = room.member(EVE, "knock", keep=False)
    state = with_membership(room, EVE, membership)
    refused = AuthRule.KNOCK_BY_MEMBER if room.version.knock else AuthRule.MEMBERSHIP_UNKNOWN
    assert rule_of(knock, state) is refused


# --- third-party invites ------------------------------------------------------------------------

IDENTITY_KEY = SigningKey.generate(b"\5" * 32, "0")
OTHER_IDENTITY_KEY = SigningKey.generate(b"\6" * 32, "0")
SIGNED = sign_json({"mxid": EVE, "token": "t"}, "identity.example", IDENTITY_KEY)


def third_party(room: Room, signed: object = SIGNED, sender: UserId = ALICE) -> Event:
    invite = {"display_name": "e", "signed": signed}
    if signed is None:
        del invite["signed"]
    return room.member(sender, "invite", EVE, extra={"third_party_invite": invite}, keep=False)


def room_with_token(name: str, **content: Any) -> Room:
    room = room_with(name)
    given = content or {"public_key": IDENTITY_KEY.verify_key.encoded}
    room.send("m.room.third_party_invite", ALICE, given, "t")
    return room


@pytest.mark.parametrize("where", ["public_key", "public_keys"])
def test_a_third_party_invite_is_allowed_by_a_signature_of_a_public_key(
    name: str, where: str
) -> None:
    ours = IDENTITY_KEY.verify_key.encoded
    other = OTHER_IDENTITY_KEY.verify_key.encoded
    content: dict[str, Any] = {"public_key": ours}
    if where == "public_keys":
        content = {"public_key": other, "public_keys": [5, {}, {"public_key": ours}]}
    room = room_with_token(name, **content)
    assert rule_of(third_party(room), room.auth_state()) is None
    annotated = third_party(room, {**SIGNED, "unsigned": {"age": 1}})
    assert rule_of(annotated, room.auth_state()) is None
    # The sender need not be in the room any more.
    gone = room.auth_state([room.member(ALICE, "leave", keep=False)])
    assert rule_of(third_party(room), gone) is None


def test_the_keys_of_a_third_party_invite_may_be_url_safe(name: str) -> None:
    key = IDENTITY_KEY.verify_key.encoded
    url_safe = key.translate(str.maketrans("+/", "-_"))
    assert url_safe != key, "a key that tells the alphabets apart"
    for content in ({"public_key": url_safe}, {"public_keys": [{"public_key": url_safe}]}):
        room = room_with_token(name, **content)
        assert rule_of(third_party(room), room.auth_state()) is None


@pytest.mark.parametrize(
    "signed",
    [
        {**SIGNED, "token": "t", "extra": 1},
        {**SIGNED, "signatures": {}},
        {**SIGNED, "signatures": []},
        {**SIGNED, "signatures": {"i": {"ed25519:0": 5, "rsa:0": "AA"}}},
        {**SIGNED, "signatures": {"i": []}},
        sign_json({"mxid": EVE, "token": "t"}, "i", OTHER_IDENTITY_KEY),
    ],
)
def test_a_third_party_invite_without_a_matching_signature_is_refused(
    name: str, signed: Any
) -> None:
    room = room_with_token(name)
    assert rule_of(third_party(room, signed), room.auth_state()) is (
        AuthRule.THIRD_PARTY_INVITE_UNSIGNED
    )


@pytest.mark.parametrize("keys", [{"x": 1}, {"public_keys": {}}, {"public_key": "short"}])
def test_a_third_party_invite_without_usable_keys_is_refused(name: str, keys: Any) -> None:
    room = room_with_token(name, **keys)
    assert rule_of(third_party(room), room.auth_state()) is AuthRule.THIRD_PARTY_INVITE_UNSIGNED


@pytest.mark.parametrize(
    ("signed", "expected"),
    [
        (None, AuthRule.THIRD_PARTY_INVITE_WITHOUT_SIGNED),
        ("x", AuthRule.THIRD_PARTY_INVITE_WITHOUT_SIGNED),
        ({"mxid": EVE}, AuthRule.THIRD_PARTY_INVITE_MALFORMED),
        ({"token": "t"}, AuthRule.THIRD_PARTY_INVITE_MALFORMED),
        ({"mxid": EVE, "token": 5}, AuthRule.THIRD_PARTY_INVITE_MALFORMED),
        ({"mxid": BOB, "token": "t"}, AuthRule.THIRD_PARTY_INVITE_OTHER_USER),
        ({"mxid": EVE, "token": "unknown"}, AuthRule.THIRD_PARTY_INVITE_UNKNOWN),
    ],
)
def test_a_third_party_invite_that_names_another_thing_is_refused(
    name: str, signed: Any, expected: AuthRule
) -> None:
    room = room_with_token(name)
    assert rule_of(third_party(room, signed), room.auth_state()) is expected


def test_a_third_party_invite_is_by_the_sender_of_the_token(name: str) -> None:
    room = room_with_token(name)
    event = third_party(room, sender=CAROL)
    assert rule_of(event, room.auth_state()) is AuthRule.THIRD_PARTY_INVITE_OTHER_SENDER


def test_the_banned_are_not_invited_by_third_party_either(name: str) -> None:
    room = room_with_token(name)
    state = with_membership(room, EVE, "ban")
    assert rule_of(third_party(room), state) is AuthRule.THIRD_PARTY_INVITE_TARGET_BANNED
