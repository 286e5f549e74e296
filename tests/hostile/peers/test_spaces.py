"""Servers that lie about spaces, or make this one work for nothing."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

import pytest

from federation.events.canonical_json import JsonObject
from federation.limits import HIERARCHY_ANSWER_BYTES_MAX, PUBLIC_ROOMS_ANSWER_BYTES_MAX
from homeserver import limits
from tests.hostile.clients.running_server import Reply, User
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import Http

pytestmark = pytest.mark.asyncio(loop_scope="module")

HIERARCHY = "/federation/v1/hierarchy/"


def summary(room_id: str, *children: str, **more: Any) -> JsonObject:
    """A public space of the evil server."""
    return {
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
                "content": {"via": ["evil.example"]},
                "sender": "@mallory:evil.example",
                "origin_server_ts": number,
            }
            for number, child in enumerate(children)
        ],
        **more,
    }


def whole(room: object, children: object = (), hidden: object = ()) -> JsonObject:
    """An answer."""
    return {"room": room, "children": children, "inaccessible_children": hidden}


async def hierarchy(world: World, user: User, room_id: str, query: str = "") -> Reply:
    """A page, as a user sees it. The peer counts as one that answers, whatever it did before."""
    await world.evil.request("GET", f"/_matrix{HIERARCHY}{quote('!none:here.example')}")
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/hierarchy{query}"
    return await world.server.call("GET", path, by=user)


def asked_for(path: str) -> str:
    """The room of a request."""
    return unquote(path.rpartition("/")[2].partition("?")[0])


async def test_a_space_without_an_end_is_walked_for_a_while(world: World) -> None:
    """Each room has further ones below it. The walk goes no deeper than the bound, and a page asks
    no more often than its bound."""

    def endless(path: str, _body: object) -> JsonObject:
        room_id = asked_for(path)
        return whole(
            summary(room_id, *(f"{room_id.partition(':')[0]}{n}:evil.example" for n in "ab"))
        )

    world.evil.answers[HIERARCHY] = endless
    world.evil.asked.clear()
    reply = await hierarchy(world, world.alice, "!endless:evil.example")
    assert reply.status == 200
    assert "next_batch" in reply.body
    asked = [path for _, path, _ in world.evil.asked if HIERARCHY in path]
    assert len(asked) <= limits.HIERARCHY_REQUESTS_PER_PAGE + limits.HIERARCHY_AHEAD
    depths = {len(room["room_id"].partition(":")[0]) for room in reply.body["rooms"]}
    assert max(depths) - min(depths) <= limits.HIERARCHY_DEPTH
    world.evil.answers.clear()
    await world.is_up()


async def test_a_circle_ends(world: World) -> None:
    ring = [f"!ring{number}:evil.example" for number in range(3)]

    def circle(path: str, _body: object) -> JsonObject:
        here = ring.index(asked_for(path))
        return whole(summary(ring[here], ring[here], ring[(here + 1) % 3], ring[here - 1]))

    world.evil.answers[HIERARCHY] = circle
    reply = await hierarchy(world, world.alice, ring[0])
    assert sorted(room["room_id"] for room in reply.body["rooms"]) == ring
    assert "next_batch" not in reply.body
    world.evil.answers.clear()


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        whole(None),
        whole([]),
        whole({"room_id": "!strange:evil.example"}),
        whole(summary("!another:evil.example")),
        Http(200, b"{"),
        Http(200, b'{"room": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        Http(200, b'{"room": "' + b"x" * HIERARCHY_ANSWER_BYTES_MAX + b'"}'),
        Http(404, b'{"errcode":"M_NOT_FOUND","error":"no"}'),
        Http(500, b"oh"),
        Http(302, b"", {"Location": "https://localhost/"}),
    ],
    ids=str,
)
async def test_a_strange_answer_is_none(world: World, answer: object) -> None:
    number = len(world.evil.asked)
    room_id = f"!strange{number}:evil.example"
    world.evil.answers[HIERARCHY] = lambda path, body: answer
    reply = await hierarchy(world, world.alice, room_id)
    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    world.evil.answers.clear()
    await world.is_up()


async def test_strange_parts_of_an_answer_are_left_out(world: World) -> None:
    room_id = "!odd:evil.example"
    room = summary(room_id, "!x:evil.example")
    room["children_state"] += [
        None,
        5,
        {"type": "m.space.child"},
        {**room["children_state"][0], "content": 5},
    ]
    room |= {"name": 5, "topic": ["x"], "avatar_url": "javascript:x", "canonical_alias": "x"}
    room |= {"extra": {"a": 1}, "num_joined_members": 3}
    children = [
        None,
        5,
        "x",
        {},
        summary("!x:evil.example", room_type=5),
        summary("!not-a-child:evil.example"),
    ]
    world.evil.answers[HIERARCHY] = lambda path, body: whole(room, children, [5, None, "x"])
    reply = await hierarchy(world, world.alice, room_id)
    assert reply.status == 200, reply
    assert [one["room_id"] for one in reply.body["rooms"]] == [room_id, "!x:evil.example"]
    first = reply.body["rooms"][0]
    assert {"name", "topic", "avatar_url", "canonical_alias", "extra"}.isdisjoint(first)
    assert [one["state_key"] for one in first["children_state"]] == ["!x:evil.example"]
    world.evil.answers.clear()


async def test_a_peer_can_not_speak_of_our_rooms_nor_open_them(world: World) -> None:
    """A private room of ours stays so, whatever its summary elsewhere says; a room of another
    server isn't described by who merely names it as a child."""
    private = await world.server.create_room(world.alice, preset="private_chat", name="Ours")
    bob = await world.server.register("bob-of-spaces")
    root = "!liar:evil.example"
    open_lie = summary(private, name="Come in", world_readable=True)
    world.evil.answers[HIERARCHY] = lambda path, body: whole(summary(root, private), [open_lie], [])
    seen = (await hierarchy(world, bob, root)).body["rooms"]
    assert [room["room_id"] for room in seen] == [root]
    of_alice = (await hierarchy(world, world.alice, root)).body["rooms"]
    assert of_alice[1]["name"] == "Ours"
    world.evil.answers.clear()


async def test_a_stranger_is_not_shown_private_rooms(world: World) -> None:
    """Neither the room, nor as a child of a public space but by its ID, which the space tells."""
    server, alice = world.server, world.alice
    private = await server.create_room(alice, preset="private_chat", name="Secret")
    space = await server.create_room(
        alice, preset="public_chat", creation_content={"type": "m.space"}
    )
    await server.ok(
        "PUT",
        f"/rooms/{quote(space)}/state/m.space.child/{quote(private)}",
        {"via": ["here.example"]},
        by=alice,
    )
    refused = await world.evil.request("GET", f"/_matrix{HIERARCHY}{quote(private)}")
    unknown = await world.evil.request("GET", f"/_matrix{HIERARCHY}{quote('!no:here.example')}")
    assert (refused.status, refused.body) == (404, unknown.body)
    shown = await world.evil.request("GET", f"/_matrix{HIERARCHY}{quote(space)}")
    assert shown.status == 200
    assert shown.body["inaccessible_children"] == [private]
    assert "Secret" not in str(shown.body)


async def test_without_a_token_a_summary_is_for_open_rooms(world: World) -> None:
    server = world.server
    private = await server.create_room(world.alice, preset="private_chat", name="Secret")
    public = await server.create_room(world.alice, preset="public_chat", name="Open")
    for path in ("v1/room_summary/{}", "unstable/im.nheko.summary/summary/{}"):
        whole_path = f"/_matrix/client/{path}"
        hidden = await server.call("GET", whole_path.format(quote(private)))
        unknown = await server.call("GET", whole_path.format(quote("!no:here.example")))
        assert (hidden.status, hidden.body) == (404, unknown.body)
        shown = await server.ok("GET", whole_path.format(quote(public)))
        assert (shown["name"], "membership" in shown) == ("Open", False)
        stale = await server.call(
            "GET", whole_path.format(quote(public)), headers={"Authorization": "Bearer stale"}
        )
        assert (stale.status, stale.errcode) == (401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"chunk": {}},
        Http(200, b"["),
        Http(200, b'{"chunk": ["' + b"x" * PUBLIC_ROOMS_ANSWER_BYTES_MAX + b'"]}'),
        Http(404, b"nothing here"),
        Http(500),
    ],
    ids=lambda answer: str(answer)[:40],
)
async def test_a_strange_directory_is_none(world: World, answer: object) -> None:
    await world.evil.request("GET", "/_matrix/federation/v1/publicRooms")
    world.evil.answers["/federation/v1/publicRooms"] = lambda path, body: answer
    refused = await world.server.call("GET", "/publicRooms?server=evil.example", by=world.alice)
    assert (refused.status, refused.errcode) == (502, "M_UNKNOWN")
    world.evil.answers.clear()
    await world.is_up()


async def test_strange_rooms_of_a_directory_are_left_out(world: World) -> None:
    """What is passed on fits the schema, as everywhere, and an address without a token may ask a
    few times."""
    await world.evil.request("GET", "/_matrix/federation/v1/publicRooms")
    room = summary("!listed:evil.example")
    odd = {"chunk": [None, 5, {"room_id": 1}, room, {**room, "room_id": "!", "name": 5}]}
    world.evil.answers["/federation/v1/publicRooms"] = lambda path, body: odd
    page = await world.server.ok("GET", "/publicRooms?server=evil.example")
    assert [one["room_id"] for one in page["chunk"]] == ["!listed:evil.example"]
    assert "children_state" not in page["chunk"][0]
    world.evil.answers.clear()
