"""What the machine takes from a sync: the right parts in the right order, and nothing malformed."""

from typing import Any

import pytest

from e2ee.machine.sync_changes import (
    RoomChanges,
    SyncChanges,
    read_room_changes,
    read_sync,
    state_events,
)

JsonObject = dict[str, Any]
ROOM, BOB = "!r:hs.test", "@bob:hs.test"
NONSENSE: list[object] = [
    None,
    5,
    "text",
    [],
    [5, None, "text", []],
    {},
    {"events": 5},
    {"events": {}},
    True,
]


def state(event_type: str, content: object, state_key: object = "") -> JsonObject:
    """Returns a state event as far as it is read."""
    return {"type": event_type, "state_key": state_key, "content": content}


def member(user_id: object, membership: object) -> JsonObject:
    """Returns a membership event."""
    return state("m.room.member", {"membership": membership}, user_id)


def test_a_rooms_changes_are_in_order_state_before_timeline() -> None:
    """A leave and a join mean the opposite of a join and a leave."""
    changes = read_room_changes(
        ROOM,
        {
            "state": {"events": [member(BOB, "leave"), state("m.room.encryption", {"n": 1})]},
            "timeline": {
                "limited": True,
                "events": [
                    {"type": "m.room.message", "content": {"body": "no state"}},
                    member(BOB, "join"),
                    state("m.room.history_visibility", {"history_visibility": "joined"}),
                    state("m.room.encryption", {"n": 2}),
                ],
            },
        },
    )
    assert changes == RoomChanges(
        ROOM,
        is_limited=True,
        encryption=({"n": 1}, {"n": 2}),
        history_visibility=("joined",),
        memberships=((BOB, "leave"), (BOB, "join")),
    )


@pytest.mark.parametrize("limited", [None, 0, 1, "true", [True], False])
def test_only_true_is_a_gap(limited: object) -> None:
    """As JSON says it."""
    assert not read_room_changes(ROOM, {"timeline": {"limited": limited}}).is_limited
    assert read_room_changes(ROOM, {"timeline": {"limited": True}}).is_limited


@pytest.mark.parametrize("event_type", ["m.room.encryption", "m.room.history_visibility"])
def test_state_under_another_key_isnt_the_rooms(event_type: str) -> None:
    """P1, M7: any member may be allowed to write state under their own ID."""
    events = [state(event_type, {"algorithm": "x", "history_visibility": "shared"}, BOB)]
    assert read_room_changes(ROOM, {"timeline": {"events": events}}) == RoomChanges(ROOM)


@pytest.mark.parametrize("content", [None, 5, "text", ["algorithm"]])
def test_emptied_encryption_is_seen_as_such(content: object) -> None:
    """P1: the pinning must hear of it, so as to refuse it."""
    events = [state("m.room.encryption", content)]
    assert read_room_changes(ROOM, {"state": {"events": events}}).encryption == ({},)


@pytest.mark.parametrize("membership", [None, 5, {}, ["join"]])
def test_a_malformed_membership_is_none_that_we_know(membership: object) -> None:
    """It is a text all the same, so that whoever compares needs no second check."""
    changes = read_room_changes(ROOM, {"state": {"events": [member(BOB, membership)]}})
    [(user_id, read)] = changes.memberships
    assert user_id == BOB
    assert isinstance(read, str)
    assert read not in ("join", "invite")


def test_state_events_are_those_with_a_state_key() -> None:
    """The empty one is one; a number isn't."""
    good = state("a", {})
    room = {
        "state": {"events": [good, state("b", {}, 5), {"type": "c"}, None, "text", []]},
        "timeline": {"events": [state("d", {}, BOB), state("e", {}, None)]},
        "account_data": {"events": [state("f", {})]},
    }
    assert [event["type"] for event in state_events(room)] == ["a", "d"]


@pytest.mark.parametrize("part", NONSENSE)
def test_nonsense_in_a_room_is_absent(part: object) -> None:
    """Either part may be bad; the other one counts."""
    good = {"events": [state("m.room.encryption", {"algorithm": "x"})]}
    for first, second in (("state", "timeline"), ("timeline", "state")):
        changes = read_room_changes(ROOM, {first: part, second: good})
        assert changes.encryption == ({"algorithm": "x"},)


def test_a_sync_is_read_whole() -> None:
    """Rooms that were left too: a departure there ends a session."""
    answer = {
        "to_device": {"events": [{"type": "a"}, 5, {"type": "b"}]},
        "device_lists": {"changed": [BOB, 5, None], "left": ["@eve:hs.test", {}]},
        "device_one_time_keys_count": {"signed_curve25519": 20},
        "device_unused_fallback_key_types": ["signed_curve25519", 5],
        "rooms": {
            "join": {ROOM: {"timeline": {"limited": True}}},
            "leave": {"!left:hs.test": {"timeline": {"events": [member(BOB, "ban")]}}},
            "invite": {"!new:hs.test": {"state": {"events": [member(BOB, "join")]}}},
        },
    }
    assert read_sync(answer, is_initial=False) == SyncChanges(
        to_device=({"type": "a"}, {"type": "b"}),
        changed_users=(BOB,),
        left_users=("@eve:hs.test",),
        one_time_key_counts={"signed_curve25519": 20},
        unused_fallback_types=["signed_curve25519"],
        rooms=(
            RoomChanges(ROOM, is_limited=True),
            RoomChanges("!left:hs.test", memberships=((BOB, "ban"),)),
        ),
    )
    assert read_sync({}, is_initial=True) == SyncChanges(is_initial=True)


def test_no_fallback_types_and_none_said_are_two_things() -> None:
    """An empty list says that the fallback key was used; an absent one says nothing."""
    name = "device_unused_fallback_key_types"
    assert read_sync({name: []}, is_initial=False).unused_fallback_types == []
    assert read_sync({}, is_initial=False).unused_fallback_types is None
    malformed: list[object] = [None, {}, "signed_curve25519"]
    for nonsense in malformed:
        assert read_sync({name: nonsense}, is_initial=False).unused_fallback_types is None


@pytest.mark.parametrize(
    "part", ["to_device", "device_lists", "device_one_time_keys_count", "rooms"]
)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_malformed_part_is_absent(part: str, nonsense: object) -> None:
    """A hostile server can't stop the sync: one bad part costs nothing but itself."""
    to_device = {"events": [{"type": "a"}]}
    answer = {"to_device": to_device, part: nonsense}
    changes = read_sync(answer, is_initial=False)
    assert changes.to_device == (() if part == "to_device" else ({"type": "a"},))
    assert changes.rooms == ()
    assert changes.changed_users == changes.left_users == ()


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_malformed_room_hides_no_other(nonsense: object) -> None:
    """It counts as a room in which nothing was seen."""
    bad, good = "!bad:hs.test", {"timeline": {"events": [member(BOB, "leave")]}}
    changes = read_sync({"rooms": {"join": {bad: nonsense, ROOM: good}}}, is_initial=False)
    assert changes.rooms == (
        RoomChanges(bad),
        RoomChanges(ROOM, memberships=((BOB, "leave"),)),
    )
