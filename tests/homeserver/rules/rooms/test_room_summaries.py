"""Summaries of rooms: the order of children, what counts as a child, and who may see a room."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from federation.events.room_versions import ROOM_VERSIONS
from homeserver import limits
from homeserver.rules.rooms.room_summaries import (
    SummarisedRoom,
    is_open,
    read_summary,
    shows_itself,
)

SPACE = RoomId("!space:example.org")
OTHER = RoomId("!other:example.org")


def child(room_id: str, time_ms: int = 1, **content: Any) -> JsonObject:
    """A stripped event m.space.child."""
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "content": {"via": ["example.org"], **content},
        "sender": "@alice:example.org",
        "origin_server_ts": time_ms,
    }


def space(*children: JsonObject, **more: Any) -> JsonObject:
    """A space as a server gives it."""
    return {
        "room_id": SPACE,
        "num_joined_members": 2,
        "world_readable": False,
        "guest_can_join": False,
        "room_type": "m.space",
        "children_state": list(children),
        **more,
    }


def read(value: JsonObject) -> SummarisedRoom:
    found = read_summary(value)
    assert found is not None
    return found


def ids(summary: SummarisedRoom) -> list[str]:
    return [one.room_id for one in summary.children]


def test_children_are_in_the_order_of_the_specification_s_example() -> None:
    """Client-server API, "Ordering of children within a space"."""
    summary = read(
        space(
            child("!e:example.org", 1640641000000),
            child("!d:example.org", 1640741000000),
            child("!c:example.org", 1640841000000, order="first"),
            child("!a:example.org", 1640141000000, order="aaaa"),
            child("!b:example.org", 1640341000000, order=" "),
        )
    )
    assert ids(summary) == [f"!{name}:example.org" for name in "baced"]


def test_equal_children_are_in_the_order_of_times_then_of_ids() -> None:
    summary = read(
        space(
            child("!y:example.org", 2, order="o"),
            child("!z:example.org", 1, order="o"),
            child("!x:example.org", 2, order="o"),
            child("!b:example.org", 5),
            child("!a:example.org", 5),
        )
    )
    assert ids(summary) == [f"!{name}:example.org" for name in "zxyab"]


@pytest.mark.parametrize(
    "order",
    ["", "x" * (limits.SPACE_ORDER_CHARACTERS + 1), "\x1f", "\x7f", "é", 5, None, ["a"], "a\n"],
)
def test_an_invalid_order_counts_as_none(order: object) -> None:
    summary = read(space(child("!old:example.org", 1), child("!new:example.org", 2, order=order)))
    assert ids(summary) == ["!old:example.org", "!new:example.org"]
    longest = read(space(child("!o:e.org", 1), child("!n:e.org", 2, order="~" * 50)))
    assert ids(longest) == ["!n:e.org", "!o:e.org"]


@pytest.mark.parametrize(
    "content", [{}, {"via": []}, {"via": "example.org"}, {"via": None}, {"via": [5, "", "a b"]}]
)
def test_a_child_without_servers_is_none(content: JsonObject) -> None:
    event = {**child("!gone:example.org"), "content": content}
    assert ids(read(space(event, child("!here:example.org")))) == ["!here:example.org"]


def test_servers_of_a_child_are_the_valid_ones() -> None:
    (one,) = read(space(child("!a:example.org", via=["b.org", 7, "bad name", "b.org"]))).children
    assert one.via == ("b.org",)
    many = [f"s{number}.org" for number in range(limits.SPACE_CHILD_SERVERS_READ + 1)]
    (one,) = read(space(child("!a:example.org", via=many))).children
    assert list(one.via) == many[:-1]


@pytest.mark.parametrize("key", ["", "general", "#a:example.org", "!no-domain", "!a:bad name"])
def test_a_child_s_key_is_a_room_id(key: str) -> None:
    assert ids(read(space(child(key)))) == []


def test_the_suggested_children_alone_can_be_chosen() -> None:
    summary = read(space(child("!a:e.org", suggested=True), child("!b:e.org", suggested="yes")))
    assert [one.room_id for one in summary.chosen(suggested_only=True)] == ["!a:e.org"]
    assert len(summary.chosen(suggested_only=False)) == 2


def test_an_event_is_passed_on_whole_and_nothing_beside_it() -> None:
    event = child("!a:e.org", more={"deep": [1]})
    (one,) = read(space({**event, "unsigned": {"age": 1}})).children
    assert orjson.loads(one.event) == event


@pytest.mark.parametrize(
    "event",
    [
        None,
        7,
        {},
        {**child("!a:e.org"), "type": "m.room.name"},
        {**child("!a:e.org"), "content": []},
        {**child("!a:e.org"), "sender": 1},
        {**child("!a:e.org"), "origin_server_ts": "1"},
        {**child("!a:e.org"), "origin_server_ts": 2**60},
        {**child("!a:e.org"), "origin_server_ts": True},
        {**child("!a:e.org"), "state_key": 1},
    ],
)
def test_malformed_children_are_left_out(event: Any) -> None:
    assert ids(read(space(event, child("!b:e.org")))) == ["!b:e.org"]


def test_a_space_has_so_many_children() -> None:
    events = [child(f"!{number}:e.org", number) for number in range(limits.SPACE_CHILDREN + 1)]
    assert len(read(space(*events)).children) == limits.SPACE_CHILDREN


def test_a_room_that_is_no_space_has_no_children() -> None:
    assert ids(read(space(child("!a:e.org"), room_type="m.other"))) == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "room",
        {},
        space(room_id="not an ID"),
        space(room_id=5),
        space(num_joined_members=-1),
        space(num_joined_members=True),
        space(num_joined_members=1.5),
        space(num_joined_members=2**53),
    ],
)
def test_what_is_no_summary_is_none(value: Any) -> None:
    assert read_summary(value) is None


def test_fields_of_wrong_types_are_left_out() -> None:
    wrong = {
        "name": 5,
        "topic": ["x"],
        "canonical_alias": "general",
        "avatar_url": "https://example.org/",
        "join_rule": None,
        "room_version": 9,
        "encryption": {},
        "allowed_room_ids": "!a:e.org",
        "world_readable": "yes",
        "guest_can_join": 1,
        "secret": "more",
    }
    summary = read(space(**wrong))
    assert summary.entry == {
        "room_id": SPACE,
        "num_joined_members": 2,
        "world_readable": False,
        "guest_can_join": False,
        "room_type": "m.space",
    }
    allowed = read(space(allowed_room_ids=[OTHER, 5, "x"]))
    assert allowed.allowed_rooms == [OTHER]
    ids_of_many = [f"!{number}:e.org" for number in range(limits.RESTRICTED_JOIN_ROOMS + 1)]
    assert len(read(space(allowed_room_ids=ids_of_many)).allowed_rooms) == len(ids_of_many) - 1


def test_texts_of_other_servers_are_cut() -> None:
    most = limits.REMOTE_ROOM_TEXT_CHARACTERS
    assert len(read(space(topic="x" * most)).entry["topic"]) == most
    assert len(read(space(topic="x" * (most + 1))).entry["topic"]) == most


SUPPORTING = {
    "public": set(ROOM_VERSIONS),
    "knock": {name for name in ROOM_VERSIONS if int(name) >= 7},
    "restricted": set(),
    "knock_restricted": {name for name in ROOM_VERSIONS if int(name) >= 10},
    "invite": set(),
    "private": set(),
}
"""Join rules by which anybody may join, or ask to (spec: room versions 7, 8, 10)."""


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@pytest.mark.parametrize("rule", SUPPORTING)
def test_a_join_rule_opens_a_room_in_the_versions_that_have_it(rule: str, version: str) -> None:
    summary = read(space(join_rule=rule, room_version=version))
    assert is_open(summary) == (version in SUPPORTING[rule])
    assert is_open(read(space(join_rule=rule, room_version=version, world_readable=True)))


@pytest.mark.parametrize("membership", [None, "join", "invite", "knock", "leave", "ban"])
@pytest.mark.parametrize(
    ("room", "seen_by"),
    [
        ({"join_rule": "public"}, {None, "join", "invite", "knock", "leave"}),
        ({"join_rule": "invite"}, {"join", "invite"}),
        (
            {"join_rule": "invite", "world_readable": True},
            {None, "join", "invite", "knock", "leave", "ban"},
        ),
        (
            {"join_rule": "restricted", "allowed_room_ids": [OTHER]},
            {None, "join", "invite", "knock", "leave"},
        ),
        ({"join_rule": "restricted", "allowed_room_ids": ["!x:e.org"]}, {"join", "invite"}),
    ],
)
def test_users_see_what_they_are_in_or_may_enter(
    room: JsonObject, seen_by: set[str | None], membership: str | None
) -> None:
    summary = read(space(**room))
    assert shows_itself(summary, membership, {OTHER}) == (membership in seen_by)
