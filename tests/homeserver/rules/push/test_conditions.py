"""Conditions: the specification's examples, types, malformed ones, and the bound of their cost."""

from typing import Any

import pytest

from homeserver import limits
from homeserver.rules.push.conditions import (
    NOBODY,
    Evaluation,
    EventFacts,
    RuleOwner,
    compile_condition,
    mentioned,
)

EVENT = {
    "type": "m.room.message",
    "sender": "@a:b",
    "content": {
        "body": "Lunch with Ann",
        "m.federate": True,
        "back\\slash": 1,
        "n": None,
        "deep": {"er": {"est": 5}},
        "list": ["#somewhere:example.org", 1, None, True, {}, 1.5],
    },
}


def holds(condition: dict[str, Any], *, joined: int = 3, owner: RuleOwner = NOBODY) -> bool:
    """Evaluates one condition; the sender may notify `room`."""
    facts = EventFacts(EVENT, joined=joined, may_notify=lambda key: key == "room")
    return compile_condition(condition)(Evaluation(facts, owner))


@pytest.mark.parametrize(
    ("key", "value", "matches"),
    [
        (r"content.m\.federate", True, True),
        (r"content.m\.federate", "true", False),
        (r"content.m\.federate", 1, False),
        ("content.m.federate", True, False),
        (r"content.back\\slash", 1, True),
        (r"content.back\slash", 1, True),  # another escape is left as it is
        (r"content.back\\slash", True, False),
        ("content.n", None, True),
        ("content.absent", None, False),
        ("content.deep.er.est", 5, True),
        ("content.deep.er", 5, False),
        ("content.deep.er.est.more", 5, False),
        ("content.list", None, False),
        ("content.deep.er.est", 5.0, False),
        ("content.deep.er.est", {}, False),
        ("content.deep.er.est", 2**60, False),
    ],
)
def test_a_property_is_exactly_a_value(key: str, value: Any, matches: bool) -> None:
    """No type is converted; dots and backslashes of names are escaped."""
    assert holds({"kind": "event_property_is", "key": key, "value": value}) is matches


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        ("#somewhere:example.org", True),
        (":example.org", False),
        (1, True),
        (True, True),
        (None, True),
        (False, False),
        ({}, False),
        (1.5, False),
        ("1", False),
    ],
)
def test_a_list_contains_exactly_a_value(value: Any, matches: bool) -> None:
    """Of a list; a string isn't one."""
    condition = {"kind": "event_property_contains", "key": "content.list", "value": value}
    assert holds(condition) is matches
    assert not holds({**condition, "key": "content.body", "value": "L"})


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ("3", True), ("==3", True), ("2", False), ("<4", True), ("<3", False), ("<=3", True),
        (">2", True), (">3", False), (">=3", True), ("=3", False), ("3 ", False), ("", False),
        ("!=2", False), ("-3", False), ("٣", False), ("9" * 19, False), (3, False),
    ],
)  # fmt: skip
def test_the_number_of_members_is_compared(wanted: Any, matches: bool) -> None:
    """By decimal integers with one of five signs or none."""
    assert holds({"kind": "room_member_count", "is": wanted}) is matches


def test_the_sender_may_notify_by_their_power() -> None:
    """As the room says for the key."""
    assert holds({"kind": "sender_notification_permission", "key": "room"})
    assert not holds({"kind": "sender_notification_permission", "key": "all"})


def test_the_display_name_is_a_whole_word() -> None:
    """In any case; no name is in no message."""
    condition = {"kind": "contains_display_name"}
    assert holds(condition, owner=RuleOwner("@x:b", "ANN"))
    assert not holds(condition, owner=RuleOwner("@x:b", "An"))
    assert not holds(condition, owner=RuleOwner("@x:b", ""))


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"kind": "unknown"},
        {"kind": ["event_match"]},
        {"kind": "event_match", "key": "content.body"},
        {"kind": "event_match", "pattern": "*"},
        {"kind": "event_match", "key": "content.n", "pattern": "*"},
        {"kind": "event_match", "key": "content.absent", "pattern": "*"},
        {"kind": "event_match", "key": 5, "pattern": "*"},
        {"kind": "event_property_is", "key": "content.absent"},
        {"kind": "event_property_is", "value": None},
        {"kind": "event_property_contains", "key": "content.list"},
        {"kind": "room_member_count"},
        {"kind": "sender_notification_permission"},
        {"kind": "sender_notification_permission", "key": 1},
    ],
)
def test_unknown_and_malformed_conditions_never_hold(condition: dict[str, Any]) -> None:
    """Whatever the event."""
    assert not holds(condition)


def test_mentions_are_a_list_of_strings() -> None:
    """Anything else mentions nobody."""
    assert mentioned({"m.mentions": {"user_ids": ["@a:b", 5]}}) == ["@a:b"]
    malformed: list[Any] = [None, {}, {"m.mentions": []}, {"m.mentions": {"user_ids": "@a:b"}}]
    for content in malformed:
        assert mentioned(content) == []


def test_patterns_stop_matching_when_their_cost_is_used_up() -> None:
    """One that fits into it matches, the next one doesn't."""
    text = "ab " * (limits.PUSH_MATCH_STEPS // 30)
    facts = EventFacts({"content": {"body": text}}, joined=1, may_notify=lambda _: False)
    pattern = compile_condition({"kind": "event_match", "key": "content.body", "pattern": "ab a*b"})
    evaluation = Evaluation(facts, NOBODY)
    assert pattern(evaluation)
    assert not all(pattern(evaluation) for _ in range(3))
    assert pattern(Evaluation(facts, NOBODY)), "another user's rules have steps of their own"
