"""Auth rules of all events but members and power levels, and the selection of auth events."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.event import Event, load_event
from federation.events.ids import EventId, RoomId, StateKey, UserId
from federation.events.room_versions import room_version
from federation.graph.auth.auth_rules import (
    AuthRule,
    AuthState,
    auth_event_keys,
    check_auth,
    check_auth_events,
    create_event_id,
)
from federation.graph.building import EventDraft
from tests.federation.graph.room_builder import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    EVE,
    SUPPORTED_NAMES,
    Room,
    event_of,
)

all_versions = pytest.mark.parametrize("name", SUPPORTED_NAMES)
before_12 = pytest.mark.parametrize("name", [name for name in SUPPORTED_NAMES if name != "12"])


def rule_of(event: Event, state: AuthState) -> AuthRule | None:
    failure = check_auth(event, state)
    return None if failure is None else failure.rule


def create_of(name: str, room: str | None = "!r:a", prev: Any = (), **content: Any) -> Event:
    version = room_version(name)
    if version.room_id_is_create_hash:
        room = None
    draft = EventDraft("m.room.create", ALICE, content, "")
    return event_of(version, None if room is None else RoomId(room), draft, prev=prev)


def rule_of_create(event: Event) -> AuthRule | None:
    return rule_of(event, AuthState(event.version, lambda key: None))


# --- the create event ---------------------------------------------------------------------------


@all_versions
def test_a_create_event_is_allowed(name: str) -> None:
    assert rule_of_create(create_of(name, creator=ALICE, room_version=name)) is None
    assert rule_of_create(create_of(name, creator=ALICE)) is None


@all_versions
def test_a_create_event_comes_first(name: str) -> None:
    event = create_of(name, creator=ALICE, prev=[Room(name).create])
    assert rule_of_create(event) is AuthRule.CREATE_HAS_PREV_EVENTS


@before_12
def test_a_create_event_is_of_the_senders_domain(name: str) -> None:
    event = create_of(name, room="!r:b", creator=ALICE)
    assert rule_of_create(event) is AuthRule.CREATE_OF_OTHER_DOMAIN


def test_a_version_12_create_event_has_no_room_id() -> None:
    event = create_of("12")
    raw = event.raw.replace(b'"sender"', b'"room_id":"!r:a","sender"')
    broken = load_event(raw, event.version, event.event_id)
    assert rule_of_create(broken) is AuthRule.CREATE_HAS_ROOM_ID


@all_versions
@pytest.mark.parametrize("value", ["999", "", 11, None, []])
def test_a_create_event_names_a_version_that_is_known(name: str, value: Any) -> None:
    event = create_of(name, creator=ALICE, room_version=value)
    assert rule_of_create(event) is AuthRule.CREATE_VERSION_UNKNOWN


def test_a_create_event_names_the_creator_up_to_version_10() -> None:
    for name in SUPPORTED_NAMES:
        refused = None if name in ("11", "12") else AuthRule.CREATE_WITHOUT_CREATOR
        assert rule_of_create(create_of(name)) is refused
        assert rule_of_create(create_of(name, creator=ALICE)) is None


@pytest.mark.parametrize("value", [5, "@b:b", {}, None, [5], ["bob"], [BOB, "@b"]])
def test_additional_creators_are_user_ids_in_version_12(value: Any) -> None:
    rejected = AuthRule.CREATE_ADDITIONAL_CREATORS
    assert rule_of_create(create_of("12", additional_creators=value)) is rejected
    assert rule_of_create(create_of("11", additional_creators=value)) is None


def test_additional_creators_may_be_several_or_none() -> None:
    for value in ([], [BOB], [BOB, CAROL, "@A B:c"]):
        assert rule_of_create(create_of("12", additional_creators=value)) is None


# --- all other events ---------------------------------------------------------------------------


@all_versions
def test_nothing_is_allowed_without_a_create_event(name: str) -> None:
    room = Room(name).open_to()
    event = room.send("m.room.message", ALICE, {}, keep=False)
    assert rule_of(event, room.without(("m.room.create", ""))) is AuthRule.STATE_WITHOUT_CREATE


@all_versions
def test_an_event_is_of_the_room_of_the_create_event(name: str) -> None:
    room, other = Room(name).open_to(), Room(name, create={"x": 1})
    other.room_id = RoomId("!other:a") if name != "12" else other.room_id
    event = other.send("m.room.message", ALICE, {}, keep=False)
    assert rule_of(event, room.auth_state()) is AuthRule.ROOM_ID_NOT_OF_CREATE


@all_versions
@pytest.mark.parametrize(("federate", "allowed"), [(False, False), (True, True), ("false", True)])
def test_a_room_that_does_not_federate_has_one_server(
    name: str, federate: Any, allowed: bool
) -> None:
    room = Room(name, create={"m.federate": federate}).open_to(BOB)
    message = room.send("m.room.message", BOB, {}, keep=False)
    join = room.member(EVE, "join", keep=False)
    expected = None if allowed else AuthRule.NOT_FEDERATED
    assert rule_of(message, room.auth_state()) is expected
    assert rule_of(join, room.auth_state()) is expected
    assert rule_of(room.send("m.x", ALICE, {}, keep=False), room.auth_state()) is None


@all_versions
@pytest.mark.parametrize("membership", ["leave", "ban", "invite", "knock", None])
def test_only_the_joined_send(name: str, membership: str | None) -> None:
    room = Room(name).open_to(BOB)
    changes = [] if membership is None else [room.member(ALICE, membership, EVE, keep=False)]
    event = room.send("m.room.message", EVE, {}, keep=False)
    assert rule_of(event, room.auth_state(changes)) is AuthRule.SENDER_NOT_JOINED
    assert rule_of(room.send("m.room.message", BOB, {}, keep=False), room.auth_state()) is None


@all_versions
def test_the_level_of_the_type_decides(name: str) -> None:
    room = Room(name).open_to(BOB, CAROL, levels={CAROL: 50})
    state = room.auth_state()
    assert rule_of(room.send("m.room.topic", CAROL, {}, "", keep=False), state) is None
    low = room.send("m.room.topic", BOB, {}, "", keep=False)
    assert rule_of(low, state) is AuthRule.LEVEL_TOO_LOW
    message = room.send("m.room.topic", BOB, {}, keep=False)
    assert rule_of(message, state) is None
    users = dict(room.state["m.room.power_levels", ""].content["users"])
    room.levels(ALICE, users, extra={"events": {"m.room.topic": 0}, "events_default": 1})
    assert rule_of(low, room.auth_state()) is None
    other = room.send("m.room.message", BOB, {}, keep=False)
    assert rule_of(other, room.auth_state()) is AuthRule.LEVEL_TOO_LOW


@all_versions
def test_a_third_party_invite_takes_the_invite_level_alone(name: str) -> None:
    room = Room(name).open_to(BOB, CAROL, levels={CAROL: 50})
    event = room.send("m.room.third_party_invite", BOB, {}, "@t", keep=False)
    assert rule_of(event, room.auth_state()) is None
    users = dict(room.state["m.room.power_levels", ""].content["users"])
    room.levels(ALICE, users, extra={"invite": 50, "state_default": 100})
    assert rule_of(event, room.auth_state()) is AuthRule.THIRD_PARTY_INVITE_LEVEL
    allowed = room.send("m.room.third_party_invite", CAROL, {}, "@t", keep=False)
    assert rule_of(allowed, room.auth_state()) is None


@all_versions
def test_a_state_key_with_a_sigil_is_the_senders(name: str) -> None:
    room = Room(name).open_to(BOB)
    room.levels(ALICE, {}, extra={"state_default": 0, "users": {}})
    state = room.auth_state()
    for state_key, expected in [
        (BOB, None),
        ("", None),
        ("x@y", None),
        (ALICE, AuthRule.STATE_KEY_OF_OTHER_USER),
        ("@", AuthRule.STATE_KEY_OF_OTHER_USER),
        (f"{BOB}_x", AuthRule.STATE_KEY_OF_OTHER_USER),
    ]:
        assert rule_of(room.send("m.x", BOB, {}, state_key, keep=False), state) is expected


@all_versions
def test_redactions_are_an_auth_matter_in_the_first_versions_only(name: str) -> None:
    room = Room(name).open_to(BOB, CAROL, levels={CAROL: 50})
    refused = AuthRule.REDACTION_LEVEL if name in ("1", "2") else None
    for sender, redacts, expected in [
        (BOB, room.create.event_id, refused),
        (BOB, "$own:b", None),
        (BOB, "$no-domain", refused),
        (CAROL, room.create.event_id, None),
    ]:
        event = redaction_of(room, sender, redacts)
        assert rule_of(event, room.auth_state()) is expected


def redaction_of(room: Room, sender: UserId, redacts: str) -> Event:
    draft = EventDraft("m.room.redaction", sender, {}, redacts=EventId(redacts))
    cited = room.auth_for(draft, room.state)
    return event_of(room.version, room.room_id, draft, prev=[room.last], auth=cited)


@all_versions
def test_aliases_are_the_servers_own_in_the_first_versions_only(name: str) -> None:
    room = Room(name).open_to(BOB)
    other = AuthRule.ALIASES_OF_OTHER_SERVER
    for sender, state_key, before_6, since in [
        (BOB, "b", None, AuthRule.LEVEL_TOO_LOW),
        (EVE, "e", None, AuthRule.SENDER_NOT_JOINED),
        (BOB, "a", other, AuthRule.LEVEL_TOO_LOW),
        (ALICE, "b", other, None),
        (BOB, None, other, None),
    ]:
        event = room.send("m.room.aliases", sender, {}, state_key, keep=False)
        expected = before_6 if room.version.aliases_in_auth_rules else since
        assert rule_of(event, room.auth_state()) is expected


def test_the_first_versions_limit_redactions_and_aliases() -> None:
    room = Room("1").open_to(BOB)
    raw = b'{"type":"%s","sender":"@bob:b","room_id":"!room:a","content":{},"redacts":"$x:%s",'
    raw += b'%s"prev_events":[],"auth_events":[],"depth":1,"origin_server_ts":1}'

    def rule(*parts: bytes) -> AuthRule | None:
        event = load_event(raw % parts, room.version, EventId("$e:b"))
        return rule_of(event, room.auth_state())

    assert rule(b"m.room.redaction", b"b", b"") is None
    assert rule(b"m.room.redaction", b"a", b"") is AuthRule.REDACTION_LEVEL
    assert rule(b"m.room.aliases", b"a", b'"state_key":"b",') is None
    other = AuthRule.ALIASES_OF_OTHER_SERVER
    assert rule(b"m.room.aliases", b"a", b'"state_key":"a",') is other
    assert rule(b"m.room.aliases", b"a", b"") is other


# --- selection ----------------------------------------------------------------------------------

CREATE: StateKey = ("m.room.create", "")
LEVELS: StateKey = ("m.room.power_levels", "")
RULES: StateKey = ("m.room.join_rules", "")


def member(user: str) -> StateKey:
    return ("m.room.member", user)


AUTHORISED = {"membership": "join", "join_authorised_via_users_server": CAROL}
THIRD_PARTY = {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}


@pytest.mark.parametrize(
    ("event_type", "state_key", "content", "expected"),
    [
        ("m.room.message", None, {}, []),
        ("m.room.topic", "", {"membership": "join"}, []),
        ("m.room.member", BOB, {"membership": "join"}, [RULES]),
        ("m.room.member", BOB, {"membership": "knock"}, [RULES]),
        ("m.room.member", BOB, {"membership": "leave"}, []),
        ("m.room.member", DAVE, {"membership": "leave"}, [member(DAVE)]),
        ("m.room.member", DAVE, {"membership": "ban"}, [member(DAVE)]),
        ("m.room.member", DAVE, {"membership": "invite"}, [member(DAVE), RULES]),
        ("m.room.member", BOB, AUTHORISED, [RULES, member(CAROL)]),
        ("m.room.member", BOB, {**AUTHORISED, "membership": "leave"}, []),
        (
            "m.room.member",
            DAVE,
            THIRD_PARTY,
            [member(DAVE), RULES, ("m.room.third_party_invite", "t")],
        ),
        ("m.room.member", DAVE, {**THIRD_PARTY, "third_party_invite": 5}, [member(DAVE), RULES]),
        ("m.room.member", None, {}, []),
    ],
)
def test_auth_events_are_selected_by_type_and_content(
    event_type: str, state_key: str | None, content: dict[str, Any], expected: list[StateKey]
) -> None:
    def keys(name: str) -> set[StateKey]:
        found = auth_event_keys(
            event_type,
            sender=BOB,
            state_key=state_key,
            content=content,
            version=room_version(name),
        )
        assert len(set(found)) == len(found)
        return set(found)

    assert keys("11") == {CREATE, LEVELS, member(BOB), *expected}
    assert keys("12") == {LEVELS, member(BOB), *expected}
    assert keys("7") == keys("11") - {member(CAROL)}


def test_a_create_event_selects_nothing() -> None:
    assert (
        auth_event_keys(
            "m.room.create", sender=BOB, state_key="", content={}, version=room_version("11")
        )
        == ()
    )


def never(event_id: EventId) -> bool:
    return False


def rule_of_auth_events(room: Room, event: Event, rejected: Any = never) -> AuthRule | None:
    cited = [room.events[event_id] for event_id in event.auth_events]
    failure = check_auth_events(event, cited, rejected)
    return None if failure is None else failure.rule


@all_versions
def test_what_the_selection_gives_is_right(name: str) -> None:
    room = Room(name).open_to(BOB)
    for event in room.events.values():
        assert rule_of_auth_events(room, event) is None


@all_versions
def test_two_auth_events_with_one_key_are_refused(name: str) -> None:
    room = Room(name).open_to(BOB)
    old = room.state[LEVELS]
    room.levels(ALICE, {BOB: 1, **({} if name == "12" else {ALICE: 100})})
    message = room.send("m.room.message", BOB, {}, keep=False)
    cited = [*(room.events[e] for e in message.auth_events), old]
    event = room.send("m.room.message", BOB, {}, auth=cited, keep=False)
    assert rule_of_auth_events(room, event) is AuthRule.AUTH_EVENTS_DUPLICATE
    twice = room.send("m.room.message", BOB, {}, auth=[*cited[:-1], cited[0]], keep=False)
    assert rule_of_auth_events(room, twice) is AuthRule.AUTH_EVENTS_DUPLICATE


@all_versions
def test_an_auth_event_beside_the_selection_is_refused(name: str) -> None:
    room = Room(name).open_to(BOB)
    message = room.send("m.room.message", BOB, {}, keep=False)
    right = [room.events[e] for e in message.auth_events]
    for extra in (room.state[RULES], room.state[member(ALICE)], message):
        event = room.send("m.room.message", BOB, {}, auth=[*right, extra], keep=False)
        assert rule_of_auth_events(room, event) is AuthRule.AUTH_EVENTS_UNEXPECTED


def test_the_create_event_is_cited_before_version_12_and_never_since() -> None:
    for name in SUPPORTED_NAMES:
        expected = None if name == "12" else AuthRule.AUTH_EVENTS_WITHOUT_CREATE
        room = Room(name).open_to(BOB)
        cited = [room.state[LEVELS], room.state[member(BOB)]]
        event = room.send("m.room.message", BOB, {}, auth=cited, keep=False)
        assert rule_of_auth_events(room, event) is expected
        whole = room.send("m.room.message", BOB, {}, auth=[*cited, room.create], keep=False)
        unexpected = AuthRule.AUTH_EVENTS_UNEXPECTED if name == "12" else None
        assert rule_of_auth_events(room, whole) is unexpected


@all_versions
def test_a_rejected_auth_event_is_refused(name: str) -> None:
    room = Room(name).open_to(BOB)
    event = room.send("m.room.message", BOB, {}, keep=False)
    bad = room.state[LEVELS].event_id
    assert rule_of_auth_events(room, event, {bad}.__contains__) is AuthRule.AUTH_EVENT_REJECTED
    other = room.state[RULES].event_id
    assert rule_of_auth_events(room, event, {other}.__contains__) is None


def test_a_version_12_room_of_a_rejected_create_event_is_refused() -> None:
    room = Room("12").open_to(BOB)
    event = room.send("m.room.message", BOB, {}, keep=False)
    bad = {room.create.event_id}.__contains__
    assert rule_of_auth_events(room, event, bad) is AuthRule.ROOM_ID_NOT_OF_CREATE
    assert create_event_id(room.create_room_id, room.version) == room.create.event_id
    assert create_event_id(RoomId("!r:a"), room_version("11")) is None


@all_versions
def test_an_auth_event_of_another_room_is_refused(name: str) -> None:
    room = Room(name).open_to(BOB)
    other = Room(name, create={"x": 1})
    if name != "12":
        other.room_id = RoomId("!other:a")
    foreign = other.levels(ALICE, {})
    room.events[foreign.event_id] = foreign
    cited = [room.state[member(BOB)], foreign]
    if name != "12":
        cited.append(room.create)
    event = room.send("m.room.message", BOB, {}, auth=cited, keep=False)
    assert rule_of_auth_events(room, event) is AuthRule.AUTH_EVENT_OF_OTHER_ROOM


def test_a_failure_names_its_rule_and_the_fact() -> None:
    room = Room("11").open_to()
    failure = check_auth(room.send("m.x", EVE, {}, keep=False), room.auth_state())
    assert str(failure) == "sender_not_joined: @eve:e is not joined"


def test_a_failure_is_printable_whatever_others_sent() -> None:
    room = Room("11").open_to(BOB, levels={BOB: 50})
    event = room.send("m.x", BOB, {}, "@\0\n\x1b[1mé\u2028", keep=False)
    failure = check_auth(event, room.auth_state())
    assert str(failure) == (r"state_key_of_other_user: the state key is @\x00\n\x1b[1mé\u2028")


def test_the_names_of_rules_are_unique() -> None:
    assert len({rule.value for rule in AuthRule}) == len(AuthRule.__members__)
