"""Room upgrades, over the real engine."""

import asyncio

import pytest

from tests.homeserver.room_world import ALICE, BOB, CAROL, STRANGER, room_world


@pytest.mark.parametrize(("old", "new"), [("10", "11"), ("11", "12"), ("12", "11"), ("12", "12")])
async def test_an_upgrade_carries_the_room_over(
    shared_database_url: str, old: str, new: str
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(
            room_version=old,
            preset="public_chat",
            name="N",
            room_alias_name="pub",
            creation_content={"type": "m.space", "m.federate": False},
            power_level_content_override={
                "users": {BOB: 60, **({} if old == "12" else {ALICE: 100})}
            },
        )
        await world.join(BOB, room_id)
        body = {"new_version": new, "additional_creators": [CAROL, ALICE]}
        reply = await world.in_room(ALICE, "POST", room_id, "upgrade", body)
        made = reply.body["replacement_room"]
        create = (await world.get_state(ALICE, made, "m.room.create")).body
        assert create["room_version"] == new
        assert (create["type"], create["m.federate"]) == ("m.space", False)
        assert create["predecessor"]["room_id"] == room_id
        assert ("event_id" in create["predecessor"]) == (new != "12")
        assert create.get("additional_creators") == ([CAROL] if new == "12" else None)
        assert (await world.get_state(ALICE, made, "m.room.name")).body == {"name": "N"}
        power = (await world.get_state(ALICE, made, "m.room.power_levels")).body
        assert power["users"] == ({BOB: 60} if new == "12" else {BOB: 60, ALICE: 100})
        assert power["events"]["m.room.tombstone"] == (150 if "12" in (old, new) else 100)
        alias = await world.call(BOB, "GET", "/directory/room/%23pub%3Ahere.example")
        assert alias.body["room_id"] == made
        canonical = (await world.get_state(ALICE, made, "m.room.canonical_alias")).body
        assert canonical == {"alias": "#pub:here.example"}
        tombstone = (await world.get_state(BOB, room_id, "m.room.tombstone")).body
        assert tombstone["replacement_room"] == made
        closed = (await world.get_state(BOB, room_id, "m.room.power_levels")).body
        assert (closed["events_default"], closed["invite"]) == (50, 50)
        assert (await world.join(BOB, made)).status == 200


async def test_only_who_may_send_the_tombstone_upgrades(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        for user in (BOB, CAROL):
            reply = await world.in_room(user, "POST", room_id, "upgrade", {"new_version": "12"})
            assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
        for body, errcode in (
            ({"new_version": "99"}, "M_UNSUPPORTED_ROOM_VERSION"),
            ({}, "M_MISSING_PARAM"),
            ({"new_version": "12", "additional_creators": ["odd"]}, "M_INVALID_PARAM"),
        ):
            assert (await world.in_room(ALICE, "POST", room_id, "upgrade", body)).errcode == errcode
        assert (await world.get_state(ALICE, room_id, "m.room.tombstone")).status == 404


async def test_an_upgrader_with_little_power_can_carry_all_state_over(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        levels = {"events": {"m.room.tombstone": 50, "m.room.server_acl": 100}}
        room_id = await world.room(
            preset="public_chat",
            initial_state=[
                {"type": "m.room.server_acl", "content": {"allow": ["*"], "deny": ["x.example"]}}
            ],
            power_level_content_override={"users": {ALICE: 100, BOB: 50}, **levels},
        )
        await world.join(BOB, room_id)
        reply = await world.in_room(BOB, "POST", room_id, "upgrade", {"new_version": "11"})
        made = reply.body["replacement_room"]
        acl = (await world.get_state(BOB, made, "m.room.server_acl")).body
        assert acl == {"allow": ["*"], "deny": ["x.example"]}
        power = (await world.get_state(BOB, made, "m.room.power_levels")).body
        assert power["users"] == {ALICE: 100, BOB: 50}
        assert STRANGER not in power["users"]


async def test_equal_upgrades_at_once_make_one_room(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        body = {"new_version": "12"}
        replies = await asyncio.gather(
            *(world.in_room(ALICE, "POST", room_id, "upgrade", body) for _ in range(3))
        )
        assert [reply.status for reply in replies] == [200] * 3
        [made] = {reply.body["replacement_room"] for reply in replies}
        assert (await world.call(ALICE, "GET", "/joined_rooms")).body["joined_rooms"] == [
            room_id,
            made,
        ]


async def test_another_version_or_user_upgrades_once_more(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(
            room_version="11",
            preset="public_chat",
            power_level_content_override={"users": {ALICE: 100, BOB: 100}},
        )
        await world.join(BOB, room_id)
        made = []
        for user, version in ((ALICE, "12"), (ALICE, "12"), (ALICE, "11"), (BOB, "11")):
            body = {"new_version": version}
            reply = await world.in_room(user, "POST", room_id, "upgrade", body)
            made.append(reply.body["replacement_room"])
        assert made[0] == made[1]
        assert len(set(made)) == 3
        broken = {"body": "x", "replacement_room": room_id}
        await world.put_state(BOB, room_id, "m.room.tombstone", broken)
        reply = await world.in_room(BOB, "POST", room_id, "upgrade", {"new_version": "11"})
        assert reply.body["replacement_room"] not in {room_id, *made}


async def test_the_new_room_names_the_tombstone_of_the_old_one(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(room_version="10", preset="public_chat")
        reply = await world.in_room(ALICE, "POST", room_id, "upgrade", {"new_version": "11"})
        made = reply.body["replacement_room"]
        create = (await world.get_state(ALICE, made, "m.room.create")).body
        state = (await world.in_room(ALICE, "GET", room_id, "state")).body
        [tombstone] = [event for event in state if event["type"] == "m.room.tombstone"]
        assert create["predecessor"] == {"room_id": room_id, "event_id": tombstone["event_id"]}
        assert tombstone["content"]["replacement_room"] == made
