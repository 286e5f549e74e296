"""What another server is shown of a space and its rooms."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName
from federation.graph.building import EventDraft
from federation.listing_ports import DirectoryQuestion, ShownSpace
from homeserver import limits
from tests.homeserver.peer import PETER, THERE, Peer
from tests.homeserver.room_world import ALICE, HERE, World, room_world

STRANGER = ServerName("stranger.example")


async def serve(
    world: World, room_id: str, origin: ServerName = THERE, *, suggested_only: bool = False
) -> ShownSpace:
    """The answer."""
    return await world.rooms.summaries.served.hierarchy(
        origin, RoomId(room_id), suggested_only=suggested_only
    )


async def is_shown(world: World, room_id: str, origin: ServerName = THERE) -> bool:
    """Whether a server is shown a room."""
    try:
        shown = await serve(world, room_id, origin)
    except MatrixError as error:
        if error.status != 404:
            raise
        return False
    return bool(shown.room["room_id"] == room_id)


async def add(world: World, parent: str, child: str, **content: object) -> None:
    """A child of a space."""
    whole = {"via": [HERE], **content}
    assert (await world.put_state(ALICE, parent, "m.space.child", whole, child)).status == 200


async def space(world: World, *children: str) -> RoomId:
    """A public space."""
    room_id = await world.room(preset="public_chat", creation_content={"type": "m.space"})
    for number, child in enumerate(children):
        await add(world, room_id, child, order=f"{number:03}", suggested=number == 0)
    return room_id


def restricted(allowed: str, rule: str = "restricted") -> JsonObject:
    """Join rules."""
    return {
        "join_rule": rule,
        "allow": [{"type": "m.room_membership", "room_id": allowed}],
    }


async def test_a_server_is_shown_what_its_users_may_enter_or_read(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        peer = Peer(world)
        joined, other = await world.room(preset="public_chat"), await world.room()
        await peer.join(joined)
        await world.put_state(ALICE, joined, "m.room.join_rules", {"join_rule": "invite"})
        rooms = {
            "joined": joined,
            "public": await world.room(preset="public_chat"),
            "private": other,
            "unknown": "!unknown:here.example",
            "invited": await world.room(),
            "knock": await world.room(),
            "world_readable": await world.room(),
            "restricted to the joined": await world.room(room_version="11"),
            "restricted to another": await world.room(room_version="11"),
            "restricted in version 7": await world.room(room_version="7"),
        }
        invite = EventDraft("m.room.member", ALICE, {"membership": "invite"}, PETER)
        await world.engine.writer.send(RoomId(rooms["invited"]), invite)
        await world.put_state(ALICE, rooms["knock"], "m.room.join_rules", {"join_rule": "knock"})
        readable = {"history_visibility": "world_readable"}
        await world.put_state(ALICE, rooms["world_readable"], "m.room.history_visibility", readable)
        for name, allowed in (
            ("restricted to the joined", joined),
            ("restricted to another", other),
            ("restricted in version 7", joined),
        ):
            reply = await world.put_state(
                ALICE, rooms[name], "m.room.join_rules", restricted(allowed)
            )
            assert reply.status == 200
        shown = {name for name, room_id in rooms.items() if await is_shown(world, room_id)}
        assert shown == {
            "joined",
            "public",
            "invited",
            "knock",
            "world_readable",
            "restricted to the joined",
        }
        strangers = {
            name for name, room_id in rooms.items() if await is_shown(world, room_id, STRANGER)
        }
        assert strangers == {"public", "knock", "world_readable"}
        # who is in a room isn't known any more once this server has left it
        assert (await world.in_room(ALICE, "POST", joined, "leave")).status == 200
        assert not await is_shown(world, rooms["restricted to the joined"])


async def test_a_space_is_shown_with_its_children_and_theirs(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        public, private = await world.room(preset="public_chat"), await world.room()
        below = await space(world, public)
        elsewhere = "!elsewhere:there.example"
        root = await space(world, below, private, elsewhere, public)
        shown = await serve(world, root)
        keys = [event_key(one) for one in shown.room["children_state"]]
        assert keys == [below, private, elsewhere, public]
        assert list(shown.children) == [below, public]
        assert shown.inaccessible == [private]
        (event,) = shown.children[below]["children_state"]
        assert event_key(event) == public
        suggested = await serve(world, root, suggested_only=True)
        assert [event_key(one) for one in suggested.room["children_state"]] == [below]
        assert (list(suggested.children), suggested.inaccessible) == ([below], [])


def event_key(fragment: object) -> str:
    """The state key of a stripped event."""
    key: str = orjson.loads(orjson.dumps(fragment))["state_key"]
    return key


async def test_an_answer_has_so_many_bytes(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room_world(shared_database_url) as world:
        rooms = [await world.room(preset="public_chat", topic="x" * 1000) for _ in range(4)]
        root = await space(world, *rooms)
        assert list((await serve(world, root)).children) == rooms
        monkeypatch.setattr(limits, "SERVED_HIERARCHY_BYTES", 4_500)
        cut = await serve(world, root)
        assert list(cut.children) == rooms[:2]
        assert len(cut.room["children_state"]) == 4, "the space itself is whole"


async def test_children_are_loaded_some_at_a_time(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISHED_ROOMS_LOADED", 2)
    async with room_world(shared_database_url) as world:
        rooms = [await world.room(preset="public_chat") for _ in range(3)]
        root = await space(world, *rooms)
        assert list((await serve(world, root)).children) == rooms


async def test_a_room_that_is_not_federated_is_shown_to_no_other_server(
    shared_database_url: str,
) -> None:
    """Neither by itself, nor in a space, nor in the directory."""
    async with room_world(shared_database_url) as world:
        options: dict[str, Any] = {"preset": "public_chat", "visibility": "public"}
        kept = await world.room(creation_content={"m.federate": False}, **options)
        shared = await world.room(creation_content={"m.federate": True}, **options)
        root = await space(world, kept, shared)
        assert not await is_shown(world, kept)
        shown = await serve(world, root)
        assert (list(shown.children), shown.inaccessible) == ([shared], [kept])
        page = await world.rooms.summaries.served.public_rooms(DirectoryQuestion())
        assert [room["room_id"] for room in page["chunk"]] == [shared]
        own = await world.call(ALICE, "POST", "/publicRooms", {})
        assert {room["room_id"] for room in own.body["chunk"]} == {kept, shared}


async def test_the_directory_is_shown_in_pages_and_searched(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        for name in ("a garden", "a kitchen", "a cellar"):
            await world.room(preset="public_chat", visibility="public", name=name)
        served = world.rooms.summaries.served
        first = await served.public_rooms(DirectoryQuestion(limit=2))
        assert (len(first["chunk"]), first["total_room_count_estimate"]) == (2, 3)
        second = await served.public_rooms(DirectoryQuestion(2, first["next_batch"]))
        names = {room["name"] for page in (first, second) for room in page["chunk"]}
        assert names == {"a garden", "a kitchen", "a cellar"}
        found = await served.public_rooms(DirectoryQuestion(search_term="GARDEN"))
        assert [room["name"] for room in found["chunk"]] == ["a garden"]
        spaces = await served.public_rooms(DirectoryQuestion(room_types=("m.space",)))
        assert spaces["chunk"] == []
        none = await served.public_rooms(DirectoryQuestion(instance_id="irc|net"))
        assert none["chunk"] == []
        with pytest.raises(MatrixError) as caught:
            await served.public_rooms(DirectoryQuestion(since="x"))
        assert (caught.value.status, caught.value.errcode) == (400, "M_INVALID_PARAM")
