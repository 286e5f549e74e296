"""The hierarchy of a space, over the real engine, against a naive model of random graphs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import product
from random import Random
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName, UserId
from federation.transport.requests.client import FailureKind, FederationError
from homeserver import limits
from tests.homeserver.room_world import ALICE, BOB, CAROL, HERE, V1, Reply, World, room_world
from tests.homeserver.services.rooms.summaries.random_spaces import (
    THERE,
    Node,
    add_edges,
    as_dict,
    build,
    random_nodes,
    shown,
    within_reach,
)


async def ask(world: World, user: UserId, room_id: str, query: str = "") -> Reply:
    """One request."""
    path = f"/rooms/{quote(room_id)}/hierarchy"
    return await world.call(user, "GET", path, query=query, prefix=V1)


async def pages(world: World, user: UserId, room_id: str, query: str = "") -> list[JsonObject]:
    """All rooms of all pages."""
    reply = await ask(world, user, room_id, query)
    assert reply.status == 200, reply
    rooms: list[JsonObject] = reply.body["rooms"]
    while (token := reply.body.get("next_batch")) is not None:
        reply = await ask(world, user, room_id, f"{query}&from={token}")
        assert reply.status == 200, reply
        rooms += reply.body["rooms"]
    return rooms


def ids(rooms: list[JsonObject]) -> list[str]:
    return [room["room_id"] for room in rooms]


async def space(world: World, *children: str, via: str = HERE) -> RoomId:
    """A public space of Alice's with children."""
    room_id = await world.room(preset="public_chat", creation_content={"type": "m.space"})
    for number, child in enumerate(children):
        content = {"via": [via], "order": f"{number:04}"}
        assert (
            await world.put_state(ALICE, room_id, "m.space.child", content, child)
        ).status == 200
    return room_id


@pytest.mark.parametrize("seed", range(8))
async def test_random_spaces_are_shown_as_the_model_says(
    shared_database_url: str, seed: int
) -> None:
    random = Random(seed)
    nodes = random_nodes(random, 12)
    add_edges(random, nodes)
    async with room_world(shared_database_url) as world:
        await build(world, nodes)
        depths = (0, 1, 2, limits.HIERARCHY_DEPTH)
        for suggested_only, max_depth in product((False, True), depths):
            limit = random.choice([1, 2, 3, 100])
            await check(world, nodes, suggested_only, max_depth, limit)


async def check(
    world: World, nodes: Sequence[Node], suggested_only: bool, max_depth: int, limit: int
) -> None:
    """Check what Bob is shown of a graph, in pages."""
    expected = shown(nodes[0], suggested_only=suggested_only, max_depth=max_depth)
    reach = within_reach(nodes[0], suggested_only=suggested_only, max_depth=max_depth)
    assert set(expected) == reach
    query = f"suggested_only={str(suggested_only).lower()}&max_depth={max_depth}&limit={limit}"
    rooms = await pages(world, BOB, nodes[0].room_id, query)
    assert ids(rooms) == expected
    for node in nodes:
        if (room := as_dict(rooms).get(node.room_id)) is not None:
            edges = node.children(suggested_only=suggested_only)
            keys = [one["state_key"] for one in room["children_state"]]
            assert keys == [edge.child.room_id for edge in edges if node.is_space]


async def test_a_room_is_shown_with_all_that_is_known_of_it(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        parent = await space(world)
        room_id = await world.room(
            preset="public_chat",
            room_version="10",
            name="General",
            topic="All of it",
            room_alias_name="general",
            initial_state=[
                {"type": "m.room.avatar", "content": {"url": "mxc://here.example/a"}},
                {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
                {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}},
                {
                    "type": "m.room.history_visibility",
                    "content": {"history_visibility": "world_readable"},
                },
                {
                    "type": "m.room.join_rules",
                    "content": {
                        "join_rule": "restricted",
                        "allow": [
                            {"type": "m.room_membership", "room_id": parent},
                            {"type": "m.other", "room_id": "!x:y"},
                        ],
                    },
                },
            ],
        )
        content = {"via": [HERE], "order": "o", "suggested": True, "more": [1]}
        sent = await world.put_state(ALICE, parent, "m.space.child", content, room_id)
        assert sent.status == 200
        whole, room = await pages(world, BOB, parent)
        assert room == {
            "room_id": room_id,
            "name": "General",
            "topic": "All of it",
            "canonical_alias": "#general:here.example",
            "avatar_url": "mxc://here.example/a",
            "num_joined_members": 1,
            "world_readable": True,
            "guest_can_join": True,
            "join_rule": "restricted",
            "allowed_room_ids": [parent],
            "encryption": "m.megolm.v1.aes-sha2",
            "room_version": "10",
            "children_state": [],
        }
        (event,) = whole["children_state"]
        assert event.pop("origin_server_ts") > 0
        assert event == {
            "type": "m.space.child",
            "state_key": room_id,
            "content": content,
            "sender": ALICE,
        }
        assert (whole["room_type"], whole["join_rule"]) == ("m.space", "public")


async def test_a_room_that_can_not_be_seen_is_403_like_one_that_does_not_exist(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        private = await world.room(preset="private_chat")
        banned = await space(world)
        await world.in_room(ALICE, "POST", banned, "ban", {"user_id": BOB})
        replies = [
            await ask(world, BOB, room_id) for room_id in (private, banned, "!none:here.example")
        ]
        assert {(reply.status, reply.errcode) for reply in replies} == {(403, "M_FORBIDDEN")}
        assert len({reply.body["error"] for reply in replies}) == 1
        assert ids(await pages(world, ALICE, private)) == [private]


async def test_a_token_is_for_its_user_its_room_and_its_parameters(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        rooms = [await world.room(preset="public_chat") for _ in range(2)]
        parent = await space(world, *rooms)
        first = await ask(world, BOB, parent, "limit=1&max_depth=3&suggested_only=false")
        token = first.body["next_batch"]
        for query in ("", "&max_depth=3", "&suggested_only=false", "&max_depth=3&limit=2"):
            again = await ask(world, BOB, parent, f"from={token}{query}")
            assert ids(again.body["rooms"])[0] == rooms[0], "a page can be asked for again"
        for user, room_id, query in (
            (CAROL, parent, ""),
            (BOB, rooms[0], ""),
            (BOB, parent, "&max_depth=2"),
            (BOB, parent, "&suggested_only=true"),
        ):
            reply = await ask(world, user, room_id, f"from={token}{query}")
            assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM"), query
        unknown = await ask(world, BOB, parent, "from=unknown")
        assert (unknown.status, unknown.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("bound", ["HIERARCHY_PAGE_BYTES", "HIERARCHY_STEPS_PER_PAGE"])
async def test_a_page_ends_at_its_bounds_and_the_next_goes_on(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    async with room_world(shared_database_url) as world:
        rooms = [await world.room(preset="public_chat") for _ in range(3)]
        parent = await space(world, *rooms)
        assert "next_batch" not in (await ask(world, BOB, parent)).body
        monkeypatch.setattr(limits, bound, 1)
        first = await ask(world, BOB, parent)
        assert (ids(first.body["rooms"]), "next_batch" in first.body) == ([parent], True)
        assert ids(await pages(world, BOB, parent)) == [parent, *rooms]


async def test_a_walk_ends_at_so_many_rooms(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room_world(shared_database_url) as world:
        rooms = [await world.room(preset="public_chat") for _ in range(3)]
        parent = await space(world, *rooms)
        monkeypatch.setattr(limits, "HIERARCHY_ROOMS", 3)
        assert ids(await pages(world, BOB, parent, "limit=1")) == [parent, *rooms[:2]]
        monkeypatch.setattr(limits, "HIERARCHY_ROOMS", 5)
        assert ids(await pages(world, BOB, parent, "limit=1")) == [parent, *rooms]


async def test_so_many_children_wait_for_their_turn(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room_world(shared_database_url) as world:
        rooms = [await world.room(preset="public_chat") for _ in range(3)]
        parent = await space(world, *rooms)
        monkeypatch.setattr(limits, "HIERARCHY_STEPS_WAITING", 3)
        assert ids(await pages(world, BOB, parent)) == [parent, *rooms[:2]]
        monkeypatch.setattr(limits, "HIERARCHY_STEPS_WAITING", 4)
        assert ids(await pages(world, BOB, parent)) == [parent, *rooms]


async def test_a_deep_space_is_shown_to_a_depth(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HIERARCHY_DEPTH", 2)
    async with room_world(shared_database_url) as world:
        line = [await space(world)]
        for _ in range(3):
            line.insert(0, await space(world, line[0]))
        assert ids(await pages(world, BOB, line[0])) == line[:3]
        assert ids(await pages(world, BOB, line[0], "max_depth=9")) == line[:3]
        assert ids(await pages(world, BOB, line[0], "max_depth=1")) == line[:2]


async def test_a_space_that_is_met_again_nearer_to_the_root_is_gone_through_again(
    shared_database_url: str,
) -> None:
    """Its rooms are within `max_depth` by that way; it is listed once."""
    async with room_world(shared_database_url) as world:
        room = await world.room(preset="public_chat")
        inner = await space(world, room)
        outer = await space(world, inner)
        root = await space(world, outer, inner)
        assert ids(await pages(world, BOB, root, "max_depth=2")) == [root, outer, inner, room]
        assert ids(await pages(world, BOB, root, "max_depth=1")) == [root, outer, inner]


def remote_space(room_id: str, *children: str) -> JsonObject:
    """What a server says of a public space."""
    return {
        "room": {
            "room_id": room_id,
            "num_joined_members": 1,
            "world_readable": False,
            "guest_can_join": False,
            "join_rule": "public",
            "room_type": "m.space",
            "children_state": [
                {
                    "type": "m.space.child",
                    "state_key": child,
                    "content": {"via": [THERE]},
                    "sender": f"@a:{THERE}",
                    "origin_server_ts": number,
                }
                for number, child in enumerate(children)
            ],
        },
        "children": [],
        "inaccessible_children": [],
    }


async def test_servers_are_asked_so_often_for_a_page(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HIERARCHY_AHEAD", 1)
    monkeypatch.setattr(limits, "HIERARCHY_REQUESTS_PER_PAGE", 2)
    async with room_world(shared_database_url) as world:
        line = [RoomId(f"!s{number}:{THERE}") for number in range(4)]
        for room_id, child in zip(line, [*line[1:], line[0]], strict=True):
            world.remote.spaces[THERE, room_id] = remote_space(room_id, child)
        first = await ask(world, BOB, line[0])
        assert (ids(first.body["rooms"]), len(world.remote.asked)) == (line[:2], 2)
        assert ids(await pages(world, BOB, line[0])) == line
        assert len(world.remote.asked) == len(line), "answers are kept"


async def test_the_next_rooms_are_looked_up_together(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that are slow hold a page up once, all together: none answers before all of them are
    asked."""
    async with room_world(shared_database_url) as world:
        rooms = [RoomId(f"!r{number}:{THERE}") for number in range(limits.HIERARCHY_AHEAD)]
        here = await world.room(preset="public_chat")
        parent = await space(world, *rooms, here, via=THERE)
        asked: list[RoomId] = []
        all_asked = asyncio.Event()

        async def answer(server: ServerName, room_id: RoomId) -> JsonObject:
            asked.append(room_id)
            if len(asked) == len(rooms):
                all_asked.set()
            await all_asked.wait()
            raise FederationError(server, FailureKind.TIMEOUT, "slow")

        monkeypatch.setattr(world.rooms.summaries.hierarchy._remote, "_ask", answer)
        assert ids(await pages(world, BOB, parent)) == [parent, here]
        assert sorted(asked) == sorted(rooms)


async def test_a_page_ends_with_its_time(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page has one room at least, so that a walk ends; a server that never answers doesn't
    hold it up."""
    monkeypatch.setattr(limits, "HIERARCHY_PAGE_S", 0.0)
    async with room_world(shared_database_url) as world:
        away, here = RoomId(f"!away:{THERE}"), await world.room(preset="public_chat")
        parent = await space(world, away, here, via=THERE)

        async def stall(_server: ServerName, _room_id: RoomId) -> JsonObject:
            await asyncio.Event().wait()
            raise AssertionError("the event is never set")

        monkeypatch.setattr(world.rooms.summaries.hierarchy._remote, "_ask", stall)
        first = await ask(world, BOB, parent)
        assert (ids(first.body["rooms"]), "next_batch" in first.body) == ([parent], True)
        assert ids(await pages(world, BOB, parent)) == [parent, here]


async def test_what_is_known_here_counts_and_not_what_others_say(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        private = await world.room(preset="private_chat", name="Secret")
        liar = RoomId(f"!liar:{THERE}")
        answer = remote_space(liar, private)
        answer["children"] = [{**answer["room"], "room_id": private, "name": "Harmless"}]
        answer["inaccessible_children"] = [private]
        world.remote.spaces[THERE, liar] = answer
        assert ids(await pages(world, BOB, liar)) == [liar]
        assert [room.get("name") for room in await pages(world, ALICE, liar)] == [None, "Secret"]
        assert world.remote.asked == [("hierarchy", THERE, liar)]


async def test_an_inaccessible_child_is_not_asked_for(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        root, hidden = RoomId(f"!root:{THERE}"), RoomId(f"!hidden:{THERE}")
        answer = remote_space(root, hidden)
        answer["inaccessible_children"] = [hidden]
        world.remote.spaces[THERE, root] = answer
        assert ids(await pages(world, BOB, root)) == [root]
        assert world.remote.asked == [("hierarchy", THERE, root)]


async def test_an_invited_user_is_shown_a_room_of_the_inviter_s_server(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        root = RoomId(f"!{'a' * 43}")
        answer = remote_space(root)
        answer["room"]["join_rule"] = "invite"
        world.remote.spaces[THERE, root] = answer
        assert (await ask(world, BOB, root)).status == 403
        await world.remote.invite_ours(root, BOB, UserId(f"@peter:{THERE}"))
        assert ids(await pages(world, BOB, root)) == [root]
