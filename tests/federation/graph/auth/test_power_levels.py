"""Power levels: defaults, what each version reads, and creators."""

from __future__ import annotations

import math
from typing import Any

import pytest

from federation.events.room_versions import room_version
from federation.graph.auth.power_levels import PowerLevels, creators_of, read_level
from tests.federation.graph.room_builder import ALICE, BOB, CAROL, Room

V9, V10, V12 = room_version("9"), room_version("10"), room_version("12")


def levels_of(name: str, content: dict[str, Any] | None, **create: Any) -> PowerLevels:
    room = Room(name, create=create)
    event = None
    if content is not None:
        event = room.send("m.room.power_levels", ALICE, content, "")
    return PowerLevels(room.create, event, room.version)


@pytest.mark.parametrize("name", ["10", "11"])
def test_without_power_levels_the_creator_has_100(name: str) -> None:
    levels = levels_of(name, None)
    assert (levels.user(ALICE), levels.user(BOB)) == (100, 0)
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (50, 50, 50, 0)
    assert levels.event("m.room.topic", is_state=True) == 50
    assert levels.event("m.room.message", is_state=False) == 0
    assert levels.notifications("room") == 50


@pytest.mark.parametrize("name", ["10", "11"])
def test_with_power_levels_the_creator_has_what_they_say(name: str) -> None:
    levels = levels_of(name, {"users": {BOB: 7}, "users_default": 3})
    assert (levels.user(ALICE), levels.user(BOB)) == (3, 7)


def test_in_version_12_creators_have_infinite_power_whatever_is_said() -> None:
    for content in (None, {"users": {ALICE: 1, BOB: 2}}):
        levels = levels_of("12", content, additional_creators=[CAROL])
        assert levels.user(ALICE) == levels.user(CAROL) == math.inf
        assert levels.user(BOB) == (0 if content is None else 2)


def test_additional_creators_are_none_before_version_12() -> None:
    assert creators_of(Room("11", create={"additional_creators": [CAROL]}).create) == {ALICE}
    assert creators_of(Room("12", create={"additional_creators": 5}).create) == {ALICE}


def test_the_creator_is_that_of_the_content_up_to_version_10() -> None:
    assert creators_of(Room("10", create={"creator": BOB}).create) == {BOB}
    assert creators_of(Room("11", create={"creator": BOB}).create) == {ALICE}
    assert creators_of(Room("10", create={"creator": 5}).create) == set()


def test_levels_of_events_and_notifications_are_read() -> None:
    levels = levels_of(
        "11",
        {
            "events": {"m.room.topic": 7, "x": -1},
            "notifications": {"room": 9},
            "state_default": 60,
            "events_default": 5,
        },
    )
    assert levels.event("m.room.topic", is_state=True) == 7
    assert levels.event("m.room.topic", is_state=False) == 7
    assert levels.event("x", is_state=False) == -1
    assert levels.event("y", is_state=True) == 60
    assert levels.event("y", is_state=False) == 5
    assert levels.notifications("room") == 9


def test_what_cannot_be_read_counts_as_default() -> None:
    levels = levels_of("11", {"ban": "7", "users": {BOB: "7"}, "events": [], "kick": None})
    assert (levels.ban, levels.kick, levels.user(BOB)) == (50, 50, 0)


def test_without_a_create_event_nobody_is_creator() -> None:
    assert PowerLevels(None, None, V12).user(ALICE) == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        (-5, -5),
        ("5", 5),
        ("+5", 5),
        ("-5", -5),
        (" 0005 ", 5),
        (5.9, 5),
        (-5.9, -5),
        ("5.0", None),
        ("", None),
        ("five", None),
        ("1_0", None),
        ("٥", None),
        (True, None),
        (None, None),
        ([5], None),
        (math.inf, None),
        (math.nan, None),
    ],
)
def test_old_versions_read_strings_and_floats(value: object, expected: int | None) -> None:
    assert read_level(value, V9) == expected
    assert read_level(value, V10) == (value if type(value) is int else None)
