"""Summaries of the rooms that this server is in: which, and how many children of spaces."""

from __future__ import annotations

import pytest

from federation.events.ids import RoomId
from homeserver import limits
from homeserver.services.rooms.summaries.summaries import Summaries
from tests.homeserver.peer import PETER, Peer
from tests.homeserver.room_world import ALICE, BOB, HERE, World, room_world


def summaries_of(world: World) -> Summaries:
    """The service."""
    return Summaries(world.engine.room_context)


async def children(world: World, room_id: RoomId) -> list[str]:
    """The children of a space, as summaries have them."""
    found = await summaries_of(world).of([room_id])
    return [child.room_id for child in found[room_id].summary.children]


async def space(world: World, count: int) -> RoomId:
    """A space with children that aren't there."""
    room_id = await world.room(preset="public_chat", creation_content={"type": "m.space"})
    for number in range(count):
        child = f"!child{number}:{HERE}"
        reply = await world.put_state(ALICE, room_id, "m.space.child", {"via": [HERE]}, child)
        assert reply.status == 200
    return room_id


async def test_a_room_that_this_server_has_left_has_no_summary(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await Peer(world).join(room_id)
        asked = [room_id, room_id, RoomId("!unknown:here.example")]
        assert set(await summaries_of(world).of(asked)) == {room_id}
        await world.in_room(ALICE, "POST", room_id, "leave", {})
        assert await summaries_of(world).of([room_id]) == {}, "the other server knows more"
        assert PETER.endswith("there.example")


async def test_rooms_are_loaded_some_at_a_time(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISHED_ROOMS_LOADED", 2)
    async with room_world(shared_database_url) as world:
        rooms = [await world.room() for _ in range(5)]
        assert set(await summaries_of(world).of(rooms)) == set(rooms)


async def test_a_space_has_so_many_children(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await space(world, 3)
        whole = await children(world, room_id)
        assert len(whole) == 3
        monkeypatch.setattr(limits, "SPACE_CHILDREN", 2)
        assert await children(world, room_id) == whole[:2]


async def test_the_children_of_a_space_take_so_many_bytes(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await space(world, 2)
        whole = await children(world, room_id)
        room = await world.engine.rooms.get(room_id)
        assert room is not None
        keys = [("m.space.child", child) for child in whole]
        events = await world.engine.rooms.state_events(room.view.state, keys)
        size = sum(len(event.raw) for event in events.values())
        monkeypatch.setattr(limits, "SPACE_CHILDREN_BYTES", size)
        assert await children(world, room_id) == whole
        monkeypatch.setattr(limits, "SPACE_CHILDREN_BYTES", size - 1)
        assert await children(world, room_id) == whole[:1]


async def test_a_user_s_memberships_are_known_also_of_rooms_elsewhere(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        joined, left = (
            await world.room(preset="public_chat"),
            await world.room(preset="public_chat"),
        )
        for room_id in (joined, left):
            await world.join(BOB, room_id)
        await world.in_room(BOB, "POST", left, "leave", {})
        invited = RoomId("!invited:there.example")
        await world.remote.invite_ours(invited, BOB, PETER)
        viewer = await summaries_of(world).viewer(BOB)
        assert viewer.memberships == {joined: "join", left: "leave", invited: "invite"}
        assert viewer.joined == {joined}
