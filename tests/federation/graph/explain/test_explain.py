"""Explanations: the rule that decided, what it looked at, each step of a resolution."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events.event import Event
from federation.events.ids import EventId
from federation.events.redaction import redact_event
from federation.events.room_versions import SUPPORTED, room_version
from federation.graph.auth.auth_failures import AuthRule
from federation.graph.auth.rule_numbers import number_of, number_of_allowing, page_of
from federation.graph.explain.explain import (
    Consulted,
    ResolutionExplanation,
    Verdict,
    explain_auth,
    explain_event,
    explain_resolution,
)
from federation.graph.explain.explain_json import event_json, resolution_json
from federation.graph.explain.explain_text import event_text, resolution_text, short_names
from federation.graph.resolution.conflicts import deltas_of
from tests.federation.graph.random_room import RandomRoom
from tests.federation.graph.room_builder import ALICE, BOB, CAROL, EVE, Room, ids_of
from tests.federation.graph.walkthrough import walkthrough

DOCUMENT = Path(__file__).parents[4] / "docs" / "event-graph.md"
LEVELS = ("m.room.power_levels", "")
all_versions = pytest.mark.parametrize("name", list(SUPPORTED))


def never(event_id: EventId) -> bool:
    return False


def schema() -> dict[str, Any]:
    found = re.search(r"<!-- schema -->\n```json\n(.*?)\n```", DOCUMENT.read_text(), re.S)
    assert found is not None
    value: dict[str, Any] = json.loads(found[1])
    return value


def check_schema(value: object) -> None:
    jsonschema.validate(json.loads(json.dumps(value)), schema())


# --- one check ----------------------------------------------------------------------------------


def test_an_explanation_names_the_rule_and_the_events_it_looked_at() -> None:
    room = Room("11").open_to(BOB)
    topic = room.send("m.room.topic", BOB, {}, "", keep=False)
    told = explain_auth(topic, room.state.get)
    assert not told.is_allowed
    assert told.failure is not None
    assert told.failure.rule is AuthRule.LEVEL_TOO_LOW
    assert told.number == "7"
    keys = [("m.room.create", ""), ("m.room.member", BOB), ("m.room.power_levels", "")]
    assert [entry.key for entry in told.consulted] == keys
    assert told.consulted[-1].event_id == room.state[LEVELS].event_id


def test_what_the_state_lacks_is_told_too() -> None:
    room = Room("11").open_to()
    told = explain_auth(room.send("m.x", EVE, {}, keep=False), room.state.get)
    assert told.consulted[-1] == Consulted(("m.room.member", EVE), None)


def test_an_allowed_event_is_told_as_allowed() -> None:
    room = Room("12").open_to()
    told = explain_auth(room.send("m.x", ALICE, {}, keep=False), room.state.get)
    assert told.is_allowed
    assert told.failure is None
    assert told.number == "11"


# --- rule numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        # As on the pages of versions 1, 5, 6, 7, 8, 10, 11 and 12.
        (AuthRule.CREATE_HAS_PREV_EVENTS, ["1.1"] * 8),
        (AuthRule.AUTH_EVENT_REJECTED, ["2.3"] * 7 + ["3.3"]),
        (AuthRule.NOT_FEDERATED, ["3"] * 7 + ["4"]),
        (AuthRule.ALIASES_OF_OTHER_SERVER, ["4"] * 2 + [None] * 6),
        (AuthRule.JOIN_WHILE_BANNED, ["5.2.3"] * 2 + ["4.2.3"] * 2 + ["4.3.3"] * 3 + ["5.3.3"]),
        (AuthRule.JOIN_RULE_FORBIDS, ["5.2.6"] * 2 + ["4.2.6"] * 2 + ["4.3.7"] * 3 + ["5.3.7"]),
        (AuthRule.KNOCK_RULE, [None] * 3 + ["4.6.1"] + ["4.7.1"] * 3 + ["5.7.1"]),
        (AuthRule.MEMBERSHIP_UNKNOWN, ["5.6", "5.6", "4.6", "4.7", "4.8", "4.8", "4.8", "5.8"]),
        (AuthRule.JOIN_UNSIGNED_BY_AUTHORISER, [None] * 4 + ["4.2.1"] * 3 + ["5.2.1"]),
        (AuthRule.SENDER_NOT_JOINED, ["6"] * 2 + ["5"] * 5 + ["6"]),
        (AuthRule.POWER_LEVEL_NOT_INTEGER, [None] * 5 + ["9.1"] * 2 + ["10.1"]),
        (AuthRule.POWER_LEVEL_OF_CREATOR, [None] * 7 + ["10.4"]),
        (
            AuthRule.POWER_LEVEL_OF_EQUAL,
            ["10.6.1"] * 2 + ["9.6.1"] * 3 + ["9.8.1"] * 2 + ["10.9.1"],
        ),
        (AuthRule.REDACTION_LEVEL, ["11.3"] + [None] * 7),
        (AuthRule.STATE_WITHOUT_CREATE, ["2.4"] * 7 + ["2"]),
        (AuthRule.ROOM_ID_NOT_OF_CREATE, ["2.5"] * 7 + ["2"]),
    ],
)
def test_a_rule_has_the_number_of_the_versions_page(
    rule: AuthRule, numbers: list[str | None]
) -> None:
    names = ["1", "5", "6", "7", "8", "10", "11", "12"]
    found = [number_of(rule, room_version(name)) for name in names]
    assert found == numbers


@all_versions
def test_every_rule_that_a_version_can_break_has_a_number_there(name: str) -> None:
    version = room_version(name)
    absent = {rule for rule in AuthRule if number_of(rule, version) is None}
    by_flag = {
        AuthRule.CREATE_HAS_ROOM_ID: version.room_id_is_create_hash,
        AuthRule.CREATE_OF_OTHER_DOMAIN: not version.room_id_is_create_hash,
        AuthRule.CREATE_WITHOUT_CREATOR: version.creator_in_content,
        AuthRule.CREATE_ADDITIONAL_CREATORS: version.additional_creators,
        AuthRule.AUTH_EVENTS_WITHOUT_CREATE: version.create_in_auth_events,
        AuthRule.JOIN_NOT_AUTHORISED: version.restricted_joins,
        AuthRule.ALIASES_OF_OTHER_SERVER: version.aliases_in_auth_rules,
        AuthRule.JOIN_UNSIGNED_BY_AUTHORISER: version.restricted_joins,
        AuthRule.KNOCK_RULE: version.knock,
        AuthRule.KNOCK_OF_OTHER_USER: version.knock,
        AuthRule.KNOCK_BY_MEMBER: version.knock,
        AuthRule.POWER_LEVEL_NOT_INTEGER: version.integer_power_levels,
        AuthRule.POWER_LEVEL_MAP_MALFORMED: version.integer_power_levels,
        AuthRule.POWER_LEVEL_OF_CREATOR: version.creators_are_privileged,
        AuthRule.POWER_LEVEL_UNREADABLE: not version.integer_power_levels,
        AuthRule.REDACTION_LEVEL: version.redactions_in_auth_rules,
    }
    assert absent == {rule for rule, known in by_flag.items() if not known}
    assert page_of(version) == f"Room Version {name}, Authorisation rules"


def test_what_is_allowed_is_allowed_by_the_group_of_rules_for_its_kind() -> None:
    def numbers(event_type: str, content: dict[str, Any], state_key: str | None) -> list[str]:
        found = []
        for name in ("1", "3", "6", "8", "12"):
            room = Room(name).open_to()
            event = room.send(event_type, ALICE, content, state_key, keep=False)
            found.append(number_of_allowing(event))
        return found

    assert numbers("m.room.message", {}, None) == ["12", "11", "10", "10", "11"]
    assert numbers("m.room.redaction", {}, None) == ["11", "11", "10", "10", "11"]
    assert numbers("m.room.aliases", {}, "a") == ["4", "4", "10", "10", "11"]
    assert numbers("m.room.power_levels", {}, "") == ["10", "10", "9", "9", "10"]
    assert numbers("m.room.third_party_invite", {}, "t") == ["7", "7", "6", "6", "7"]
    join = {"membership": "join"}
    assert numbers("m.room.member", join, ALICE) == ["5.2", "5.2", "4.2", "4.3", "5.3"]
    assert number_of_allowing(Room("12").create) == "1"


# --- one event ----------------------------------------------------------------------------------


@all_versions
def test_each_check_of_an_event_is_replayed(name: str) -> None:
    told = walkthrough(name).soft_failure()
    assert told.by_auth_events is not None
    assert told.by_auth_events.is_allowed
    assert told.by_state_before is not None
    assert told.by_state_before.is_allowed
    assert told.by_current_state is not None
    assert told.by_current_state.failure is not None
    assert told.by_current_state.failure.rule is AuthRule.LEVEL_TOO_LOW
    check_schema(event_json(told))
    text = event_text(told)
    assert "stored as soft failed: level_too_low" in text
    assert "6, the room's state as of now: refused by rule" in text


def test_what_is_missing_is_named_and_its_check_not_made_up() -> None:
    room = Room("12").open_to(BOB)
    event = room.send("m.x", BOB, {}, keep=False)
    lost = room.events.pop(event.auth_events[0])
    verdict = Verdict("outlier", unverified=True)
    told = explain_event(
        event, verdict, load=room.loader(), is_rejected=never, before=None, current=None
    )
    assert told.missing == (lost.event_id,)
    assert told.by_auth_events is None
    assert told.by_state_before is None
    text = event_text(told)
    assert f"{lost.event_id}  is not here" in text
    assert "5, the state before it: can't be replayed" in text
    assert "another server's word" in text
    check_schema(event_json(told))
    room.events[lost.event_id] = lost
    del room.events[room.create.event_id]
    without_create = explain_event(
        event, verdict, load=room.loader(), is_rejected=never, before=None, current=None
    )
    assert without_create.by_auth_events is None
    assert without_create.missing == ()


def test_an_event_that_lost_its_content_says_so() -> None:
    room = Room("11").open_to(BOB)
    event = redact_event(room.send("m.x", BOB, {"body": "gone"}, keep=False))
    told = explain_event(
        event,
        Verdict("accepted"),
        load=room.loader(),
        is_rejected=never,
        before=None,
        current=None,
    )
    assert told.content_redacted
    assert "it was redacted, when it came or since" in event_text(told)
    assert not walkthrough().soft_failure().content_redacted


def test_a_wrong_selection_of_auth_events_is_told_as_such() -> None:
    room = Room("11").open_to(BOB)
    event = room.send("m.x", BOB, {}, auth=[room.create], keep=False)
    rejected = {room.create.event_id}.__contains__
    verdict = Verdict("rejected", "auth_event_rejected")
    told = explain_event(
        event, verdict, load=room.loader(), is_rejected=rejected, before=None, current=None
    )
    assert told.by_auth_events is not None
    assert told.by_auth_events.number == "2.3"
    assert told.by_auth_events.consulted == (Consulted(room.create.key, room.create.event_id),)


def test_a_create_event_needs_nothing_else() -> None:
    room = Room("12")
    told = explain_event(
        room.create,
        Verdict("accepted"),
        load=room.loader(),
        is_rejected=never,
        before=None,
        current=None,
    )
    assert told.by_auth_events is not None
    assert told.by_auth_events.is_allowed
    assert told.by_auth_events.consulted == ()
    assert "4, its auth events: allowed by rule 1\n  5, the" in event_text(told)


def test_what_others_wrote_can_not_steer_a_terminal() -> None:
    room = Room("11").open_to(BOB)
    event = room.send("m.x\x1b[2J", BOB, {}, "\u202eevil\n", keep=False)
    told = explain_event(
        event,
        Verdict("rejected", "a\x1bb"),
        load=room.loader(),
        is_rejected=never,
        before=room.state.get,
        current=None,
    )
    text = event_text(told)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b" in text


# --- a fork -------------------------------------------------------------------------------------


def by_key(told: ResolutionExplanation) -> dict[str, EventId | None]:
    return {outcome.key[0]: outcome.event_id for outcome in told.outcomes}


@pytest.mark.parametrize("name", [name for name in SUPPORTED if name != "1"])
def test_a_resolution_is_told_step_by_step(name: str) -> None:
    made = walkthrough(name)
    told = made.resolution()
    assert told.algorithm == made.room.version.state_resolution
    order = [one.check.event_id for one in told.power_events]
    assert order.index(made.demotion.event_id) < order.index(made.ban.event_id)
    (refused,) = [one for one in told.power_events if not one.check.is_allowed]
    assert refused.check.event_id == made.ban.event_id
    assert refused.check.number is not None
    assert refused.sender_level == 50
    (topic,) = [one for one in told.others if one.check.event_id == made.topic.event_id]
    assert topic.position == 1
    assert topic.check.failure is not None
    assert told.mainline[0] == made.demotion.event_id
    assert by_key(told)["m.room.topic"] is None
    assert by_key(told)["m.room.power_levels"] == made.demotion.event_id
    assert bool(told.subgraph) == (name == "12")
    check_schema(resolution_json(told))


def test_version_1_is_told_by_its_choices() -> None:
    made = walkthrough("1")
    told = made.resolution()
    assert told.power_events == told.others == ()
    keys = [choice.key[0] for choice in told.choices]
    assert keys == ["m.room.power_levels", "m.room.member"]
    levels, member = told.choices
    assert [check.number for check in levels.tried] == [None, "10"]
    assert levels.chosen == made.demotion.event_id
    # The ban is refused by the power levels that the first pass chose.
    assert [check.is_allowed for check in member.tried] == [True, False]
    # The topic is in one state alone, which is no conflict in version 1.
    assert "m.room.topic" not in by_key(told)
    text = resolution_text(told)
    assert "taken without a check" in text
    check_schema(resolution_json(told))


def test_version_1_tells_which_of_the_others_was_taken() -> None:
    room = Room("1").open_to(BOB)
    low = room.send("m.x", ALICE, {"n": 1}, "", depth=20, keep=False)
    high = room.send("m.x", BOB, {"n": 2}, "", depth=30, keep=False)
    before = ids_of(room.state)
    states = [{**before, ("m.x", ""): event.event_id} for event in (low, high)]
    told = explain_resolution(
        room.version,
        states[0],
        deltas_of(states),
        event=room.loader(),
        is_rejected=never,
        labels=["low", "high"],
    )
    (choice,) = told.choices
    assert [check.event_id for check in choice.tried] == [high.event_id, low.event_id]
    assert [check.is_allowed for check in choice.tried] == [False, True]
    assert choice.tried[1].number == "12"
    assert told.outcomes[0].in_states == (0,)


def test_states_that_agree_are_told_in_two_lines() -> None:
    room = Room("11").open_to(BOB)
    state = ids_of(room.state)
    told = explain_resolution(
        room.version,
        state,
        [{}, {}],
        event=room.loader(),
        is_rejected=never,
        labels=["a", "b"],
    )
    assert resolution_text(told).endswith("agree on 5 entries, and differ on 0\n")
    check_schema(resolution_json(told))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["1", "2", "6", "11", "12"]), st.integers(0, 2**32), st.integers(3, 25))
def test_any_resolution_is_explained_as_it_comes_out(name: str, seed: int, steps: int) -> None:
    made = RandomRoom(name, seed, steps)
    states = made.pick(2)
    told = explain_resolution(
        made.room.version,
        states[0],
        deltas_of(states),
        event=made.room.loader(),
        is_rejected=made.rejected.__contains__,
        labels=["one", "two"],
    )
    result = made.resolve(states)
    assert all(result.get(one.key) == one.event_id for one in told.outcomes)
    assert {entry.key for entry in told.conflicted} <= {one.key for one in told.outcomes}
    assert resolution_text(told)
    check_schema(resolution_json(told))


def test_short_names_grow_until_they_differ() -> None:
    names = short_names([EventId("$" + "a" * 20 + "b"), EventId("$" + "a" * 20 + "c")])
    assert len(names) == 2
    assert len(set(names.values())) == 2
    assert set(short_names([EventId("$abcdefghijk")]).values()) == {"$abcdefgh"}


# --- the document -------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", ["fork", "event"])
def test_the_document_shows_what_the_explainer_prints(marker: str) -> None:
    found = re.search(rf"<!-- output: {marker} -->\n```\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert found is not None
    made = walkthrough()
    texts = {
        "fork": resolution_text(made.resolution()),
        "event": event_text(made.soft_failure()),
    }
    assert found[1] == texts[marker]


def test_the_documents_drawing_names_the_walkthroughs_events() -> None:
    made = walkthrough()
    text = DOCUMENT.read_text()
    drawn: list[Event] = [made.room.state[LEVELS], made.demotion, made.ban, made.topic]
    drawing = text[text.index("## The room") : text.index("## One event")]
    assert all(event.event_id[:9] in drawing for event in drawn)
    assert CAROL in text
