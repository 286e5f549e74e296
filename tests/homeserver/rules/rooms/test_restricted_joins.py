"""Who may join a restricted room, and who can vouch for them."""

from typing import Any

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.room_versions import ROOM_VERSIONS
from federation.graph.auth.power_levels import PowerLevels
from homeserver import limits
from homeserver.rules.rooms.restricted_joins import allowed_rooms, find_authorising_user

ALICE, BOB, CAROL = (UserId(f"@{name}:here.example") for name in ("alice", "bob", "carol"))


def event(event_type: str, content: dict[str, Any], version: str) -> Event:
    """A state event by Alice."""
    return Event(
        event_id=EventId("$" + event_type),
        room_id=RoomId("!r:here.example"),
        type=event_type,
        sender=ALICE,
        state_key="",
        content=content,
        prev_events=(),
        auth_events=(),
        depth=1,
        origin_server_ts=1,
        redacts=None,
        version=ROOM_VERSIONS[version],
        raw=b"",
    )


def authoriser(content: dict[str, Any], joined: set[UserId], version: str = "11") -> str | None:
    """Who can vouch in a room that Alice made."""
    power = PowerLevels(
        event("m.room.create", {}, version),
        event("m.room.power_levels", content, version),
        ROOM_VERSIONS[version],
    )
    return find_authorising_user(power, content.get("users", {}), joined)


@pytest.mark.parametrize("rule", ["public", "invite", "knock", "private", None])
def test_other_join_rules_ask_for_no_room(rule: str | None) -> None:
    assert allowed_rooms({"join_rule": rule, "allow": []}) is None


@pytest.mark.parametrize("rule", ["restricted", "knock_restricted"])
def test_conditions_of_restricted_rooms_name_rooms(rule: str) -> None:
    allow = [
        {"type": "m.room_membership", "room_id": "!a:x.example"},
        {"type": "org.example.other", "room_id": "!b:x.example"},
        {"type": "m.room_membership"},
        {"type": "m.room_membership", "room_id": 7},
        "odd",
    ]
    assert allowed_rooms({"join_rule": rule, "allow": allow}) == ["!a:x.example"]
    assert allowed_rooms({"join_rule": rule}) == ()


def test_conditions_are_looked_at_up_to_a_limit() -> None:
    one = {"type": "m.room_membership", "room_id": "!a:x.example"}
    many = [one] * (limits.RESTRICTED_JOIN_ROOMS + 1)
    found = allowed_rooms({"join_rule": "restricted", "allow": many})
    assert found is not None
    assert len(found) == limits.RESTRICTED_JOIN_ROOMS


def test_the_most_powerful_user_of_ours_vouches() -> None:
    content = {"users": {BOB: 60, CAROL: 90, "@d:there.example": 100}, "invite": 50}
    assert authoriser(content, {ALICE, BOB, CAROL}) == CAROL
    assert authoriser(content, {ALICE, BOB}) == BOB


def test_the_smallest_id_decides_between_equals() -> None:
    assert authoriser({"users": {CAROL: 60, BOB: 60}, "invite": 50}, {BOB, CAROL}) == BOB


def test_anybody_can_vouch_where_all_may_invite() -> None:
    assert authoriser({"invite": 0}, {CAROL, BOB}) == BOB


def test_who_was_lowered_can_not_vouch() -> None:
    assert authoriser({"users": {BOB: -1}, "invite": 0}, {BOB}) is None
    assert authoriser({"users": {BOB: -1}, "invite": 0}, {BOB, CAROL}) == CAROL


def test_nobody_can_vouch_where_none_may_invite() -> None:
    assert authoriser({"users": {BOB: 40}, "invite": 50}, {BOB, CAROL}) is None
    assert authoriser({"invite": 0}, set()) is None


def test_a_version_12_creator_can_vouch() -> None:
    assert authoriser({"users": {BOB: 100}, "invite": 50}, {ALICE, BOB}, "12") == ALICE
