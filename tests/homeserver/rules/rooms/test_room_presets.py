"""The events of a new room, for each preset and room version."""

from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.ids import RoomAlias, UserId
from federation.events.room_versions import ROOM_VERSIONS
from homeserver.rules.rooms.room_presets import (
    NewRoom,
    build_membership_draft,
    build_power_levels,
    build_room_drafts,
)
from homeserver.rules.rooms.room_requests import parse_invitees, parse_room_request

ALICE = UserId("@alice:here.example")
BOB = UserId("@bob:here.example")
VERSIONS = ("10", "11", "12")
PRESETS = ("private_chat", "trusted_private_chat", "public_chat")


def new_room(version: str = "11", alias: str | None = None, **body: Any) -> NewRoom:
    """A room that Alice asks for."""
    request = parse_room_request(body)
    return NewRoom(
        request,
        ALICE,
        ROOM_VERSIONS[version],
        None if alias is None else RoomAlias(alias),
        parse_invitees(request, ALICE),
        {ALICE: {"displayname": "Alice"}, BOB: {"avatar_url": "mxc://here.example/b"}},
    )


def contents(room: NewRoom) -> dict[str, dict[str, Any]]:
    """Content by type, of types that occur once."""
    return {draft.type: draft.content for draft in build_room_drafts(room)}


@pytest.mark.parametrize("version", VERSIONS)
def test_events_come_in_the_order_of_the_spec(version: str) -> None:
    room = new_room(
        version,
        "#pub:here.example",
        name="Pub",
        topic="Beer",
        initial_state=[
            {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
            {"type": "x.y", "state_key": "k", "content": {}},
        ],
    )
    assert [(draft.type, draft.state_key) for draft in build_room_drafts(room)] == [
        ("m.room.create", ""),
        ("m.room.member", ALICE),
        ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("m.room.encryption", ""),
        ("x.y", "k"),
        ("m.room.name", ""),
        ("m.room.topic", ""),
    ]
    assert all(draft.sender == ALICE for draft in build_room_drafts(room))


def test_the_creator_joins_with_their_profile() -> None:
    assert contents(new_room())["m.room.member"] == {"membership": "join", "displayname": "Alice"}


def test_name_topic_and_alias_have_their_contents() -> None:
    found = contents(new_room(alias="#pub:here.example", name="Pub", topic="Beer"))
    assert found["m.room.name"] == {"name": "Pub"}
    assert found["m.room.canonical_alias"] == {"alias": "#pub:here.example"}
    assert found["m.room.topic"]["topic"] == "Beer"
    assert found["m.room.topic"]["m.topic"] == {"m.text": [{"body": "Beer"}]}


@pytest.mark.parametrize(
    ("preset", "join_rule", "guests"),
    [
        ("private_chat", "invite", "can_join"),
        ("trusted_private_chat", "invite", "can_join"),
        ("public_chat", "public", "forbidden"),
    ],
)
def test_presets_set_join_rules_visibility_and_guest_access(
    preset: str, join_rule: str, guests: str
) -> None:
    found = contents(new_room(preset=preset))
    assert found["m.room.join_rules"] == {"join_rule": join_rule}
    assert found["m.room.history_visibility"] == {"history_visibility": "shared"}
    assert found["m.room.guest_access"] == {"guest_access": guests}


def test_initial_state_takes_the_place_of_what_the_preset_sets() -> None:
    room = new_room(
        preset="public_chat",
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}},
            {"type": "m.room.guest_access", "state_key": "odd", "content": {}},
        ],
    )
    drafts = build_room_drafts(room)
    visibility = [draft for draft in drafts if draft.type == "m.room.history_visibility"]
    assert [draft.content for draft in visibility] == [{"history_visibility": "joined"}]
    guests = [draft.state_key for draft in drafts if draft.type == "m.room.guest_access"]
    assert guests == ["", "odd"]


def test_the_name_comes_after_one_in_initial_state() -> None:
    state = [{"type": "m.room.name", "content": {"name": "first"}}]
    drafts = build_room_drafts(new_room(name="second", initial_state=state))
    names = [draft.content["name"] for draft in drafts if draft.type == "m.room.name"]
    assert names == ["first", "second"]


@pytest.mark.parametrize(("version", "has_creator"), [("10", True), ("11", False), ("12", False)])
def test_the_server_decides_creator_and_version(version: str, has_creator: bool) -> None:
    given = {"creator": "@eve:x.example", "room_version": "1", "m.federate": False, "type": "t"}
    content = contents(new_room(version, creation_content=given))["m.room.create"]
    assert content["room_version"] == version
    assert content.get("creator") == (ALICE if has_creator else None)
    assert (content["m.federate"], content["type"]) == (False, "t")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_default_power_levels(version: str, preset: str) -> None:
    content = build_power_levels(new_room(version, preset=preset, invite=[BOB]))
    equals = preset == "trusted_private_chat"
    if version == "12":
        assert content["users"] == {}
        assert content["events"]["m.room.tombstone"] == 150
    else:
        assert content["users"] == {ALICE: 100, **({BOB: 100} if equals else {})}
        assert content["events"]["m.room.tombstone"] == 100
    assert content["events"]["m.room.encryption"] == 100
    assert content["events"]["m.room.power_levels"] == 100
    assert content["state_default"] == content["ban"] == content["kick"] == 50
    assert content["events_default"] == content["users_default"] == 0
    assert content["invite"] == (50 if preset == "public_chat" else 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_override_replaces_whole_keys(version: str) -> None:
    override = {"events": {"m.room.name": 7}, "users": {BOB: 42}, "notifications": {"room": 1}}
    content = build_power_levels(new_room(version, power_level_content_override=override))
    tombstone = {"m.room.tombstone": 150} if version == "12" else {}
    assert content["events"] == {"m.room.name": 7, **tombstone}
    assert content["users"] == {BOB: 42}
    assert content["notifications"] == {"room": 1}
    assert content["ban"] == 50


@pytest.mark.parametrize(("state_default", "tombstone"), [(50, 150), (100, 150), (150, 200)])
def test_a_version_12_tombstone_takes_more_than_other_state(
    state_default: int, tombstone: int
) -> None:
    override = {"state_default": state_default}
    content = build_power_levels(new_room("12", power_level_content_override=override))
    assert content["events"]["m.room.tombstone"] == tombstone > state_default


def test_a_tombstone_level_that_the_client_names_is_kept() -> None:
    override = {"events": {"m.room.tombstone": 60}}
    content = build_power_levels(new_room("12", power_level_content_override=override))
    assert content["events"]["m.room.tombstone"] == 60


@pytest.mark.parametrize("override", [{"events": 7}, {"state_default": "50"}])
def test_levels_of_a_wrong_type_are_left_for_the_auth_rules(override: dict[str, Any]) -> None:
    content = build_power_levels(new_room("12", power_level_content_override=override))
    assert content.items() >= override.items()


def test_version_12_creators_can_not_be_listed_in_users() -> None:
    for user, body in (
        (ALICE, {}),
        (BOB, {"preset": "trusted_private_chat", "invite": [BOB]}),
        (BOB, {"creation_content": {"additional_creators": [BOB]}}),
    ):
        room = new_room("12", power_level_content_override={"users": {user: 100}}, **body)
        with pytest.raises(MatrixError) as caught:
            build_room_drafts(room)
        assert (caught.value.status, caught.value.errcode) == (400, "M_INVALID_ROOM_STATE")


def test_trusted_invitees_become_additional_creators_in_version_12() -> None:
    room = new_room(
        "12",
        preset="trusted_private_chat",
        invite=[BOB, "@carol:there.example"],
        creation_content={"additional_creators": ["@carol:there.example", ALICE]},
    )
    create = contents(room)["m.room.create"]
    assert create["additional_creators"] == ["@carol:there.example", BOB]


@pytest.mark.parametrize("preset", ["private_chat", "public_chat"])
def test_other_presets_make_no_additional_creators(preset: str) -> None:
    room = new_room("12", preset=preset, invite=[BOB])
    assert "additional_creators" not in contents(room)["m.room.create"]


def test_additional_creators_are_any_content_before_version_12() -> None:
    room = new_room("11", creation_content={"additional_creators": "anything"})
    assert contents(room)["m.room.create"]["additional_creators"] == "anything"


@pytest.mark.parametrize(
    ("creators", "errcode"),
    [
        ("@b:x.example", "M_INVALID_ROOM_STATE"),
        ([7], "M_INVALID_PARAM"),
        (["b"], "M_INVALID_PARAM"),
    ],
)
def test_additional_creators_must_be_user_ids(creators: Any, errcode: str) -> None:
    with pytest.raises(MatrixError) as caught:
        build_room_drafts(new_room("12", creation_content={"additional_creators": creators}))
    assert (caught.value.status, caught.value.errcode) == (400, errcode)


def test_initial_state_can_not_hold_a_create_event_or_others_membership() -> None:
    for state in (
        {"type": "m.room.create", "content": {}},
        {"type": "m.room.member", "state_key": BOB, "content": {"membership": "join"}},
    ):
        with pytest.raises(MatrixError) as caught:
            build_room_drafts(new_room(initial_state=[state]))
        assert caught.value.errcode == "M_INVALID_ROOM_STATE"


def test_initial_state_can_hold_the_creators_own_membership() -> None:
    own = {"membership": "join", "displayname": "Al"}
    state = [{"type": "m.room.member", "state_key": ALICE, "content": own}]
    members = [
        draft.content
        for draft in build_room_drafts(new_room(initial_state=state))
        if draft.type == "m.room.member"
    ]
    assert members[1] == own


def test_invites_carry_the_invitees_profile_and_whether_the_room_is_direct() -> None:
    draft = build_membership_draft(new_room(is_direct=True), BOB, "invite")
    assert (draft.sender, draft.state_key) == (ALICE, BOB)
    assert draft.content == {
        "membership": "invite",
        "avatar_url": "mxc://here.example/b",
        "is_direct": True,
    }
    stranger = UserId("@carol:there.example")
    assert build_membership_draft(new_room(), stranger, "invite").content == {
        "membership": "invite"
    }
