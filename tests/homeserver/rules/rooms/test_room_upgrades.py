"""What a room upgrade carries over."""

from typing import Any

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.room_versions import ROOM_VERSIONS
from homeserver.rules.rooms.room_upgrades import Upgrade, build_closed_levels, build_upgrade_drafts

ALICE, BOB = UserId("@alice:here.example"), UserId("@bob:here.example")


def upgrade(
    old: str, new: str, state: dict[str, dict[str, Any]], creators: tuple[UserId, ...] = ()
) -> dict[str, dict[str, Any]]:
    """The new room's state, by type, of an upgrade by Alice of a room that Bob made."""
    events = {
        (event_type, ""): Event(
            event_id=EventId("$" + event_type),
            room_id=RoomId("!old:here.example"),
            type=event_type,
            sender=BOB,
            state_key="",
            content=content,
            prev_events=(),
            auth_events=(),
            depth=1,
            origin_server_ts=1,
            redacts=None,
            version=ROOM_VERSIONS[old],
            raw=b"",
        )
        for event_type, content in {"m.room.create": {"creator": BOB}, **state}.items()
    }
    made = Upgrade(
        ALICE,
        events,
        ROOM_VERSIONS[old],
        ROOM_VERSIONS[new],
        creators,
        {"membership": "join"},
        None if ROOM_VERSIONS[new].room_id_is_create_hash else EventId("$tombstone"),
    )
    return {draft.type: draft.content for draft in build_upgrade_drafts(made)}


def test_power_levels_come_last_and_members_are_not_carried_over() -> None:
    found = upgrade("10", "11", {"m.room.name": {"name": "N"}, "m.room.topic": {"topic": "T"}})
    assert list(found) == [
        "m.room.create",
        "m.room.member",
        "m.room.name",
        "m.room.topic",
        "m.room.power_levels",
    ]
    assert found["m.room.create"]["predecessor"] == {
        "room_id": "!old:here.example",
        "event_id": "$tombstone",
    }
    assert "creator" not in found["m.room.create"]
    assert upgrade("11", "10", {})["m.room.create"]["creator"] == ALICE


def test_levels_that_newer_versions_refuse_are_read_or_left_out() -> None:
    old = {
        "users": {ALICE: "100", BOB: "odd"},
        "ban": 50.0,
        "kick": "x",
        "events": [],
        "notifications": {"room": " 20 "},
    }
    found = upgrade("9", "11", {"m.room.power_levels": old})["m.room.power_levels"]
    assert found == {"users": {ALICE: 100}, "ban": 50, "notifications": {"room": 20}}


def test_former_creators_get_a_level_where_creators_are_not_privileged() -> None:
    found = upgrade("12", "11", {"m.room.power_levels": {"users": {ALICE: 50}}})
    assert found["m.room.power_levels"]["users"] == {ALICE: 50, BOB: 100}


def test_creators_are_not_listed_where_they_are_privileged() -> None:
    carol = UserId("@carol:here.example")
    levels = {"users": {ALICE: 100, BOB: 100, carol: 5}, "state_default": 200}
    found = upgrade("11", "12", {"m.room.power_levels": levels}, (carol,))
    assert found["m.room.power_levels"]["users"] == {BOB: 100}
    assert found["m.room.power_levels"]["events"] == {"m.room.tombstone": 201}
    assert found["m.room.create"]["additional_creators"] == [carol]
    assert found["m.room.create"]["predecessor"] == {"room_id": "!old:here.example"}


@pytest.mark.parametrize("alias", ["#x:there.example", 7, None])
def test_only_an_alias_of_ours_moves(alias: Any) -> None:
    state = {"m.room.canonical_alias": {"alias": alias, "alt_aliases": ["#x:here.example"]}}
    assert "m.room.canonical_alias" not in upgrade("11", "12", state)


def test_a_closed_room_needs_more_power_than_members_have() -> None:
    assert build_closed_levels({"ban": 7}) == {"ban": 7, "events_default": 50, "invite": 50}
    levels = build_closed_levels({"users_default": 60, "invite": 99, "events_default": "x"})
    assert (levels["events_default"], levels["invite"]) == (61, 99)
