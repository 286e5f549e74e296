"""Summaries of single rooms for clients: of rooms here and elsewhere, with a user and without."""

from __future__ import annotations

import pytest

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomAlias, RoomId, ServerName, UserId
from homeserver.services.rooms.directory import Target
from tests.homeserver.room_world import ALICE, BOB, CAROL, World, room_world

THERE = ServerName("there.example")
ELSEWHERE = RoomId(f"!{'r' * 43}")
ALIAS = RoomAlias("#room:there.example")


def remote(room_id: RoomId, **more: object) -> JsonObject:
    """What another server says of a public room."""
    room = {
        "room_id": room_id,
        "num_joined_members": 7,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "public",
        "children_state": [],
        **more,
    }
    return {"room": room, "children": [], "inaccessible_children": []}


async def preview(
    world: World, user: UserId | None, room: str, *via: ServerName
) -> JsonObject | int:
    """The summary, or the status of the refusal."""
    previews = world.rooms.summaries.previews
    try:
        if room.startswith("#"):
            return await previews.of_alias(user, RoomAlias(room))
        return await previews.of(user, RoomId(room), via)
    except MatrixError as error:
        return error.status


async def test_a_user_is_told_of_their_membership(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat", name="Here", room_alias_name="here")
        await world.join(BOB, room_id)
        await world.in_room(BOB, "POST", room_id, "leave", {})
        for user, membership in ((ALICE, "join"), (BOB, "leave"), (CAROL, "leave")):
            for room in (room_id, "#here:here.example"):
                found = await preview(world, user, room)
                assert isinstance(found, dict)
                assert (found["membership"], found["name"]) == (membership, "Here")
                assert "children_state" not in found
        stranger = await preview(world, None, room_id)
        assert isinstance(stranger, dict)
        assert "membership" not in stranger
        assert world.remote.asked == []


async def test_a_private_room_is_for_those_who_are_in_it(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="private_chat", invite=[BOB])
        assert isinstance(await preview(world, ALICE, room_id), dict)
        invited = await preview(world, BOB, room_id)
        assert isinstance(invited, dict)
        assert invited["membership"] == "invite"
        assert await preview(world, CAROL, room_id) == 404
        assert await preview(world, None, room_id) == 404
        assert await preview(world, CAROL, "!none:here.example") == 404


async def test_a_room_elsewhere_is_asked_for(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        assert await preview(world, ALICE, ELSEWHERE) == 404
        assert world.remote.asked == [], "no server is named"
        world.remote.spaces[THERE, ELSEWHERE] = remote(ELSEWHERE)
        found = await preview(world, ALICE, ELSEWHERE, THERE)
        assert isinstance(found, dict)
        assert (found["membership"], found["num_joined_members"]) == ("leave", 7)
        world.remote.aliases[ALIAS] = Target(ELSEWHERE, [THERE])
        assert await preview(world, ALICE, ALIAS) == found
        assert await preview(world, ALICE, "#none:there.example") == 404


async def test_another_server_s_word_does_not_open_a_room(shared_database_url: str) -> None:
    """Whoever answers, the rules of who sees what are ours."""
    async with room_world(shared_database_url) as world:
        parent = await world.room(preset="public_chat")
        rules = {"join_rule": "restricted", "allowed_room_ids": [parent]}
        world.remote.spaces[THERE, ELSEWHERE] = remote(ELSEWHERE, **rules)
        assert isinstance(await preview(world, ALICE, ELSEWHERE, THERE), dict)
        assert await preview(world, BOB, ELSEWHERE, THERE) == 404
        assert await preview(world, None, ELSEWHERE, THERE) == 404


async def test_an_address_without_a_token_has_others_asked_as_often_as_it_may(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        world.remote.spaces[THERE, ELSEWHERE] = remote(ELSEWHERE)
        world.remote.aliases[ALIAS] = Target(ELSEWHERE, [THERE])
        for room in (ELSEWHERE, ALIAS):
            world.remote.asked.clear()
            assert isinstance(await preview(world, None, room, THERE), dict)
            assert world.remote.asked[0][0] == "admit"
        world.remote.error = MatrixError(429, "M_LIMIT_EXCEEDED", "too many")
        assert await preview(world, None, ELSEWHERE, THERE) == 429
        assert await preview(world, None, ALIAS) == 429
        assert isinstance(await preview(world, ALICE, ELSEWHERE, THERE), dict)


async def test_an_alias_whose_server_can_not_be_asked_is_not_found(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room_world(shared_database_url) as world:

        async def away(_alias: RoomAlias) -> Target:
            raise MatrixError(502, "M_UNKNOWN", "there.example can't be asked")

        monkeypatch.setattr(world.rooms.summaries.previews, "_resolve", away)
        assert await preview(world, ALICE, ALIAS) == 404
