"""Who sends the event that merges heads."""

from typing import Any

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.room_versions import room_version
from federation.graph.auth.power_levels import PowerLevels
from homeserver.rules.rooms.head_merges import MERGE_TYPE, find_merging_user

A, B, C = (UserId(f"@{name}:here") for name in "abc")


def power(content: dict[str, Any]) -> PowerLevels:
    def event(event_type: str, body: dict[str, Any]) -> Event:
        return Event(
            event_id=EventId("$e"),
            room_id=RoomId("!r"),
            type=event_type,
            sender=A,
            state_key="",
            content=body,
            prev_events=(),
            auth_events=(),
            depth=1,
            origin_server_ts=1,
            redacts=None,
            version=room_version("11"),
            raw=b"",
        )

    return PowerLevels(event("m.room.create", {}), event("m.room.power_levels", content), V11)


V11 = room_version("11")


@pytest.mark.parametrize(
    ("content", "joined", "chosen"),
    [
        ({"users": {A: 100}}, {A, B, C}, B),
        ({"users": {A: 100}}, {A}, A),
        ({"users": {A: 100, B: 50}, "events_default": 50}, {A, B, C}, B),
        ({"users": {A: 100, B: 50}, "events_default": 50}, {A, C}, A),
        ({"users": {A: 100}, "events": {MERGE_TYPE: 101}}, {A, B}, None),
        ({"users": {A: 100}, "events_default": 50}, {B, C}, None),
        ({}, set(), None),
    ],
)
def test_the_least_powerful_user_of_ours_who_may_send_it(
    content: dict[str, Any], joined: set[UserId], chosen: UserId | None
) -> None:
    assert find_merging_user(power(content), content.get("users", {}), joined) == chosen
