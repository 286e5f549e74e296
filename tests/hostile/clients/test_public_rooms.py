"""The published room directory over the real edge: what is listed, and hostile questions."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver import limits
from tests.hostile.clients.conftest import Scene

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_published_rooms_are_listed_in_pages(scene: Scene) -> None:
    server, alice = scene.server, scene.alice
    names = ["Alpha", "Beta", "Gamma"]
    rooms = [
        await server.create_room(alice, preset="public_chat", visibility="public", name=name)
        for name in names
    ]
    await server.ok("POST", f"/join/{quote(rooms[1])}", {}, by=scene.bob)
    await server.create_room(alice, preset="public_chat", name="Unlisted")
    everything = await server.ok("GET", "/publicRooms")
    assert {room["room_id"] for room in everything["chunk"]} == set(rooms)
    assert everything["chunk"][0]["name"] == "Beta", "the largest room comes first"
    assert everything["chunk"][0]["num_joined_members"] == 2
    seen: list[str] = []
    path = "/publicRooms?limit=2"
    while path:
        page = await server.ok("GET", path)
        assert page["total_room_count_estimate"] == 3
        seen += [room["room_id"] for room in page["chunk"]]
        path = f"/publicRooms?limit=2&since={page['next_batch']}" if "next_batch" in page else ""
    assert sorted(seen) == sorted(rooms)
    body = {"filter": {"generic_search_term": "gam"}}
    found = await server.ok("POST", "/publicRooms", body, by=alice)
    assert [room["name"] for room in found["chunk"]] == ["Gamma"]
    hidden = f"/directory/list/room/{quote(rooms[0])}"
    await server.ok("PUT", hidden, {"visibility": "private"}, by=alice)
    left = await server.ok("GET", "/publicRooms")
    assert {room["name"] for room in left["chunk"]} == {"Beta", "Gamma"}


async def test_a_token_has_so_many_digits(scene: Scene) -> None:
    server = scene.server
    longest = "9" * limits.PUBLISHED_ROOMS_TOKEN_DIGITS
    assert (await server.ok("GET", f"/publicRooms?since={longest}"))["chunk"] == []
    refused = await server.call("GET", f"/publicRooms?since={longest}9")
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")


async def test_lists_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    server, alice = scene.server, scene.alice
    for name in ("One", "Two", "Three"):
        await server.create_room(alice, preset="public_chat", visibility="public", name=name)
    everything = await server.ok("GET", "/publicRooms")
    count = len(everything["chunk"])
    assert count >= 3
    monkeypatch.setattr(limits, "PUBLISHED_ROOMS_LOADED", 2)
    assert await server.ok("GET", "/publicRooms") == everything
    for bound, total in ((count, count), (count - 1, count - 1)):
        monkeypatch.setattr(limits, "PUBLISHED_ROOMS_LISTED", bound)
        page = await server.ok("GET", "/publicRooms")
        assert page["total_room_count_estimate"] == len(page["chunk"]) == total
    monkeypatch.setattr(limits, "PUBLISHED_ROOMS_PER_PAGE", 2)
    for path in ("/publicRooms", "/publicRooms?limit=3"):
        page = await server.ok("GET", path)
        assert len(page["chunk"]) == 2
        assert "next_batch" in page


async def test_hostile_state_of_a_published_room_is_left_out(scene: Scene) -> None:
    odd: list[dict[str, Any]] = [
        {"type": "m.room.topic", "content": {"topic": {"a": [1]}}},
        {"type": "m.room.avatar", "content": {"url": 5}},
        {"type": "m.room.canonical_alias", "content": {}},
    ]
    room_id = await scene.server.create_room(
        scene.alice, preset="public_chat", visibility="public", initial_state=odd
    )
    listed = await scene.server.ok("GET", "/publicRooms")
    entry = next(room for room in listed["chunk"] if room["room_id"] == room_id)
    assert entry == {
        "room_id": room_id,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "public",
    }


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("since=x", 400),
        ("since=-1", 400),
        ("since=" + "9" * 400, 400),
        ("since=999999", 200),
        ("limit=-1", 400),
        ("limit=999999999", 200),
        ("server=other.example", 502),
        ("server=no%20name", 400),
        ("server=here.example", 200),
    ],
)
async def test_odd_questions(scene: Scene, query: str, status: int) -> None:
    reply = await scene.server.call("GET", f"/publicRooms?{query}")
    assert reply.status == status, reply
