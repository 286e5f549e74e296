"""Auth rules of m.room.power_levels: each rule with what it allows and what it forbids."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.event import load_event
from federation.events.ids import EventId, UserId
from federation.events.room_versions import room_version
from federation.graph.auth.auth_rules import AuthRule, AuthState, check_auth
from federation.graph.auth.power_levels import LEVEL_DEFAULTS
from federation.limits import QUOTED_ID_CHARACTERS_MAX
from tests.federation.graph.room_builder import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    EVE,
    SUPPORTED_NAMES,
    Room,
)

all_versions = pytest.mark.parametrize("name", SUPPORTED_NAMES)
with_integers = pytest.mark.parametrize(
    "name", [name for name in SUPPORTED_NAMES if room_version(name).integer_power_levels]
)
before_integers = pytest.mark.parametrize(
    "name", [name for name in SUPPORTED_NAMES if not room_version(name).integer_power_levels]
)


def room_with(name: str, **content: Any) -> Room:
    """Carol (50) may send power levels; Dave has 50 too; Bob 10."""
    room = Room(name).open_to(BOB, CAROL, DAVE)
    users: dict[str, int] = {CAROL: 50, DAVE: 50, BOB: 10}
    if not room.version.creators_are_privileged:
        users[ALICE] = 100
    room.levels(ALICE, users, extra={"events": {"m.room.power_levels": 50}, **content})
    return room


def change(room: Room, sender: Any = CAROL, **content: Any) -> AuthRule | None:
    """Returns what becomes of a change that `sender` makes to the current levels; None removes."""
    now = {**room.state["m.room.power_levels", ""].content, **content}
    now = {key: value for key, value in now.items() if value is not None}
    event = room.send("m.room.power_levels", sender, now, "", keep=False)
    failure = check_auth(event, room.auth_state())
    return None if failure is None else failure.rule


def users(room: Room, **changes: int | None) -> dict[str, int]:
    """Returns the current users with changes by localpart."""
    known: dict[str, UserId] = {"bob": BOB, "carol": CAROL, "dave": DAVE, "alice": ALICE}
    now = dict(room.state["m.room.power_levels", ""].content["users"])
    for who, level in changes.items():
        user_id = known.get(who, f"@{who}:x")
        now.pop(user_id, None)
        if level is not None:
            now[user_id] = level
    return now


@with_integers
@pytest.mark.parametrize("field", LEVEL_DEFAULTS)
@pytest.mark.parametrize("value", ["5", True, [], None])
def test_a_named_level_is_an_integer(name: str, field: str, value: Any) -> None:
    room = room_with(name)
    content = {"users": users(room), field: value}
    event = room.send("m.room.power_levels", ALICE, content, "", keep=False)
    failure = check_auth(event, room.auth_state())
    assert failure is not None
    assert failure.rule is AuthRule.POWER_LEVEL_NOT_INTEGER


@with_integers
@pytest.mark.parametrize("field", ["events", "notifications"])
@pytest.mark.parametrize("value", [[], "x", 5, {"a": "5"}, {"a": True}, {"a": {}}])
def test_a_map_of_levels_is_one_of_integers(name: str, field: str, value: Any) -> None:
    room = room_with(name)
    assert change(room, ALICE, **{field: value}) is AuthRule.POWER_LEVEL_MAP_MALFORMED


@all_versions
@pytest.mark.parametrize(
    "value",
    [
        [],
        "x",
        {"@b:b": "5.0"},
        {"@b:b": True},
        {"@b:b": None},
        {"bob": 5},
        {"@b": 5},
        {"@b:b_b": 5},
    ],
)
def test_users_is_a_map_of_user_ids_to_integers(name: str, value: Any) -> None:
    room = room_with(name)
    assert change(room, ALICE, users=value) is AuthRule.POWER_LEVEL_USERS_MALFORMED


@all_versions
@pytest.mark.parametrize("level", ["5", " +0005 ", "-5", "000", "0" * 5000 + "5"])
def test_a_users_level_may_be_a_string_up_to_version_9(name: str, level: str) -> None:
    room = room_with(name)
    refused = AuthRule.POWER_LEVEL_USERS_MALFORMED if room.version.integer_power_levels else None
    assert change(room, ALICE, users=users(room, bob=level)) is refused  # type: ignore[arg-type]


@before_integers
def test_strings_and_floats_are_compared_as_the_integers_they_stand_for(name: str) -> None:
    room = room_with(name, ban="51", kick=" 50 ")
    assert change(room, kick=50) is None
    assert change(room, kick="0049") is None
    assert change(room, kick="51") is AuthRule.POWER_LEVEL_CHANGE_TOO_HIGH
    assert change(room, ban=51) is None
    assert change(room, ban="50") is AuthRule.POWER_LEVEL_CHANGE_TOO_HIGH
    assert change(room, users=users(room, bob="51")) is (  # type: ignore[arg-type]
        AuthRule.POWER_LEVEL_USER_TOO_HIGH
    )
    if not room.version.strict_canonical_json:
        assert change(room, kick=50.9) is None
        assert change(room, kick=51.0) is AuthRule.POWER_LEVEL_CHANGE_TOO_HIGH


@before_integers
def test_true_is_no_level_though_python_takes_it_for_one(name: str) -> None:
    # With a level of 0, of which `true` takes away a 1 and a 1 takes the place of a `true`.
    base = {"m.room.power_levels": 0, "x": 1}
    room = room_with(name, events=base, state_default=0, users_default=0)
    too_high = AuthRule.POWER_LEVEL_MAP_CHANGE_TOO_HIGH
    room.member(EVE, "join")
    assert change(room, EVE, events={**base, "x": True}) is too_high
    room.levels(ALICE, {ALICE: 100}, extra={"events": {**base, "x": True}, "state_default": 0})
    assert change(room, EVE, events=base) is too_high
    assert change(room, EVE, events={**base, "x": False}) is None


@all_versions
def test_the_first_rule_that_is_broken_is_cited_whatever_the_order_of_users(name: str) -> None:
    room = room_with(name)
    for order in (1, -1):
        both = users(room, bob=51, dave=49)
        changed = dict(list(both.items())[::order])
        assert change(room, users=changed) is AuthRule.POWER_LEVEL_OF_EQUAL


@all_versions
def test_users_may_be_missing(name: str) -> None:
    room = room_with(name)
    event = room.send("m.room.power_levels", ALICE, {}, "", keep=False)
    failure = check_auth(event, room.without(("m.room.power_levels", "")))
    assert failure is None


def test_creators_are_not_listed_in_version_12() -> None:
    room = Room("12", create={"additional_creators": [DAVE]}).open_to(BOB, CAROL, DAVE)
    assert change(room, ALICE, users={ALICE: 100}) is AuthRule.POWER_LEVEL_OF_CREATOR
    assert change(room, ALICE, users={DAVE: 0}) is AuthRule.POWER_LEVEL_OF_CREATOR
    assert change(room, ALICE, users={BOB: 2**53 - 1}) is None
    assert change(room, DAVE, users={BOB: 2**53 - 1}) is None
    first = room.send("m.room.power_levels", ALICE, {"users": {ALICE: 1}}, "", keep=False)
    failure = check_auth(first, room.without(("m.room.power_levels", "")))
    assert failure is not None
    assert failure.rule is AuthRule.POWER_LEVEL_OF_CREATOR


def test_creators_are_listed_before_version_12() -> None:
    assert change(room_with("11"), ALICE, users={ALICE: 100}) is None


@all_versions
def test_the_first_power_levels_may_say_anything(name: str) -> None:
    room = Room(name)
    room.member(ALICE, "join")
    event = room.levels(ALICE, {BOB: 2**53 - 1}, extra={"ban": 2**53 - 1}, keep=False)
    assert check_auth(event, room.auth_state()) is None


@all_versions
@pytest.mark.parametrize("field", LEVEL_DEFAULTS)
def test_a_named_level_moves_within_the_senders_reach(name: str, field: str) -> None:
    low, high = room_with(name, **{field: 50}), room_with(name, **{field: 51})
    # Keep state events within Carol's reach whatever state_default says.
    too_high = AuthRule.POWER_LEVEL_CHANGE_TOO_HIGH
    assert change(low, **{field: 49}) is None
    assert change(low, **{field: None}) is None
    assert change(low, **{field: 51}) is too_high
    if field != "users_default":
        assert change(high, **{field: 50}) is too_high
        assert change(high, **{field: None}) is too_high
    assert change(high) is None


@all_versions
@pytest.mark.parametrize("field", LEVEL_DEFAULTS)
def test_a_named_level_is_added_within_the_senders_reach(name: str, field: str) -> None:
    room = room_with(name)
    assert change(room, **{field: 50}) is None
    assert change(room, **{field: 51}) is AuthRule.POWER_LEVEL_CHANGE_TOO_HIGH


@all_versions
@pytest.mark.parametrize("field", ["events", "notifications"])
def test_entries_of_maps_move_within_the_senders_reach(name: str, field: str) -> None:
    base = {"m.room.power_levels": 50}
    room = room_with(name, **{field: {**base, "low": 50, "high": 51}})
    guarded = field == "events" or room.version.notification_levels_guarded
    too_high = AuthRule.POWER_LEVEL_MAP_CHANGE_TOO_HIGH if guarded else None
    kept = {**base, "high": 51}
    assert change(room, **{field: {**kept, "low": 1}}) is None
    assert change(room, **{field: kept}) is None
    assert change(room, **{field: {**kept, "low": 50, "new": 50}}) is None
    assert change(room, **{field: {**kept, "low": 51}}) is too_high
    assert change(room, **{field: {**kept, "low": 50, "new": 51}}) is too_high
    assert change(room, **{field: {**base, "low": 50}}) is too_high
    assert change(room, **{field: {**base, "low": 50, "high": 50}}) is too_high


@all_versions
def test_users_below_the_sender_are_changed_and_others_not(name: str) -> None:
    room = room_with(name)
    assert change(room, users=users(room, bob=49)) is None
    assert change(room, users=users(room, bob=50)) is None
    assert change(room, users=users(room, bob=None)) is None
    assert change(room, users=users(room, new=50)) is None
    assert change(room, users=users(room, bob=51)) is AuthRule.POWER_LEVEL_USER_TOO_HIGH
    assert change(room, users=users(room, new=51)) is AuthRule.POWER_LEVEL_USER_TOO_HIGH
    assert change(room, users=users(room, dave=49)) is AuthRule.POWER_LEVEL_OF_EQUAL
    assert change(room, users=users(room, dave=None)) is AuthRule.POWER_LEVEL_OF_EQUAL


@all_versions
def test_senders_lower_and_remove_themselves_but_do_not_rise(name: str) -> None:
    room = room_with(name)
    assert change(room, users=users(room, carol=1)) is None
    assert change(room, users=users(room, carol=None)) is None
    assert change(room, users=users(room, carol=51)) is AuthRule.POWER_LEVEL_USER_TOO_HIGH


def test_a_version_12_creator_changes_all_levels() -> None:
    room = room_with("12", ban=2**53 - 1)
    assert change(room, ALICE, users=users(room, dave=None, bob=2**53 - 1), ban=0) is None


def test_old_versions_compare_strings_as_integers() -> None:
    v9 = room_version("9")
    room = room_with("10")
    content = b'{"users":{"@carol:c":" +050 ","@bob:b":"10","@alice:a":100,"@dave:d":50},'
    content += b'"events":{"m.room.power_levels":"50","x":" 7 "}}'
    template = b'{"type":"m.room.power_levels","state_key":"","sender":"@carol:c","room_id":"%s",'
    template += b'"content":%s,"prev_events":[],"auth_events":[],"depth":1,"origin_server_ts":1}'
    raw = template % (room.create_room_id.encode(), content)
    event = load_event(raw, v9, EventId("$x"))
    room.version = v9
    assert check_auth(event, room.auth_state()) is None
    raised = load_event(raw.replace(b'"10"', b'"51"'), v9, EventId("$y"))
    failure = check_auth(raised, room.auth_state())
    assert failure is not None
    assert failure.rule is AuthRule.POWER_LEVEL_USER_TOO_HIGH


def test_notifications_were_not_guarded_before_version_6() -> None:
    room = room_with("10")
    event = room.send(
        "m.room.power_levels",
        CAROL,
        {**room.state["m.room.power_levels", ""].content, "notifications": {"room": 99}},
        "",
        keep=False,
    )
    for name, expected in [("5", None), ("6", AuthRule.POWER_LEVEL_MAP_CHANGE_TOO_HIGH)]:
        room.version = room_version(name)
        failure = check_auth(event, room.auth_state())
        assert (failure and failure.rule) is expected


# --- where the text is silent: as the most deployed server answered ---------------------------

UNREADABLE: list[Any] = ["x", "", [], {}, [5], {"a": 5}, "1.5", "0x10", "1e3", "5 5", "--5", "NaN"]
READABLE: list[Any] = ["5", " +5 ", "-5", 5, 1.5, True, "5_0", "\u0967", "\u00a05"]


def stated(room: Room, content: dict[str, Any], state_key: str | None = "") -> AuthRule | None:
    """Returns what becomes of power levels of the room's creator; None of a level is kept."""
    event = room.send("m.room.power_levels", ALICE, content, state_key, keep=False)
    failure = check_auth(event, room.auth_state())
    return None if failure is None else failure.rule


@all_versions
def test_power_levels_without_a_state_key_are_refused(name: str) -> None:
    room = room_with(name)
    now = room.state["m.room.power_levels", ""].content
    assert stated(room, now, None) is AuthRule.POWER_LEVEL_WITHOUT_STATE_KEY
    assert stated(room, now, "x") is None


@before_integers
@pytest.mark.parametrize("level", ["users_default", "events_default", "ban", "kick", "invite"])
def test_levels_that_cannot_be_read_are_refused(name: str, level: str) -> None:
    room = room_with(name)
    now = room.state["m.room.power_levels", ""].content
    for value in [*UNREADABLE, None]:
        for content in ({**now, level: value}, {**now, "events": {"m.x": value}}):
            assert stated(room, content) is AuthRule.POWER_LEVEL_UNREADABLE, value
            assert stated(room, content, "x") is None, "nothing is compared under another key"
    for value in READABLE:
        if type(value) is float and room.version.strict_canonical_json:
            continue
        assert stated(room, {**now, level: value}) is None, value


@before_integers
def test_what_is_not_an_object_of_levels_is_refused_unless_it_is_empty(name: str) -> None:
    room = room_with(name)
    now = room.state["m.room.power_levels", ""].content
    guarded = room.version.notification_levels_guarded
    odd: list[Any] = ["x", 1, True, None, [["m.x", 5]]]
    for value in odd:
        assert stated(room, {**now, "events": value}) is AuthRule.POWER_LEVEL_UNREADABLE
        expected = AuthRule.POWER_LEVEL_UNREADABLE if guarded else None
        assert stated(room, {**now, "notifications": value}) is expected
    empty: list[Any] = ["", [], {}]
    for value in empty:
        assert stated(room, {**now, "events": value}) is None
        assert stated(room, {**now, "notifications": value}) is None


@before_integers
@pytest.mark.parametrize("field", LEVEL_DEFAULTS)
def test_the_first_power_levels_are_not_compared_and_those_after_odd_ones_are(
    name: str, field: str
) -> None:
    room = Room(name).open_to(BOB)
    odd = {"users": {ALICE: 100}, field: "x", "events": [["a", {}]], "notifications": "x"}
    first = room.send("m.room.power_levels", ALICE, odd, "", keep=False)
    state = {key: event for key, event in room.state.items() if key[0] != "m.room.power_levels"}
    assert check_auth(first, AuthState(room.version, state.get)) is None
    state[first.key] = first
    fixed = room.send("m.room.power_levels", ALICE, {"users": {ALICE: 100}}, "", keep=False)
    failure = check_auth(fixed, AuthState(room.version, state.get))
    assert failure is not None
    assert failure.rule is AuthRule.POWER_LEVEL_UNREADABLE


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_so_much_of_a_name_is_quoted(more: int) -> None:
    """The reason for a refusal repeats what another server wrote, and stays short."""
    room = room_with("10")
    name = "x" * (QUOTED_ID_CHARACTERS_MAX + more)
    content = {**room.state["m.room.power_levels", ""].content, "users": {name: 0}}
    event = room.send("m.room.power_levels", CAROL, content, "", keep=False)
    failure = check_auth(event, room.auth_state())
    assert failure is not None
    assert failure.detail.startswith(name[:QUOTED_ID_CHARACTERS_MAX] + ": ")
