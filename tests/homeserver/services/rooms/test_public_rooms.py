"""The published room directory, over the real engine: what it lists, in which order and pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from federation.events.ids import UserId
from homeserver import limits
from tests.homeserver.room_world import ALICE, BOB, CAROL, World, room_world


async def published(world: World, name: str, *members: UserId, **options: Any) -> str:
    """A published room with members beside its creator."""
    room_id = await world.room(preset="public_chat", visibility="public", name=name, **options)
    for user in members:
        await world.join(user, room_id)
    return room_id


async def search(world: World, **body: Any) -> Mapping[str, Any]:
    reply = await world.call(ALICE, "POST", "/publicRooms", body)
    assert reply.status == 200, reply
    found: Mapping[str, Any] = reply.body
    return found


def names(page: Mapping[str, Any]) -> list[str]:
    return [entry["name"] for entry in page["chunk"]]


async def test_rooms_are_listed_with_their_state_the_largest_first(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        await published(world, "a small one")
        large = await published(
            world,
            "the large one",
            BOB,
            CAROL,
            topic="all about it",
            room_alias_name="large",
            creation_content={"type": "m.space"},
        )
        await published(world, "middle", BOB)
        await world.room(preset="public_chat", name="not published")
        page = await search(world)
        assert names(page) == ["the large one", "middle", "a small one"]
        assert page["total_room_count_estimate"] == 3
        entry = page["chunk"][0]
        assert (entry["room_id"], entry["num_joined_members"]) == (large, 3)
        assert (entry["topic"], entry["room_type"]) == ("all about it", "m.space")
        assert (entry["canonical_alias"], entry["join_rule"]) == ("#large:here.example", "public")
        assert (entry["world_readable"], entry["guest_can_join"]) == (False, False)


async def test_pages_follow_each_other_both_ways(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        for number in range(5):
            await published(world, f"room {number}", *[BOB, CAROL][: (4 - number) // 2])
        whole = names(await search(world))
        first = await search(world, limit=2)
        assert (names(first), first["total_room_count_estimate"]) == (whole[:2], 5)
        assert "prev_batch" not in first
        second = await search(world, limit=2, since=first["next_batch"])
        last = await search(world, limit=2, since=second["next_batch"])
        assert (names(second), names(last)) == (whole[2:4], whole[4:])
        assert "next_batch" not in last
        assert names(await search(world, limit=2, since=second["prev_batch"])) == whole[:2]
        exact = await search(world, limit=5)
        assert names(exact) == whole
        assert "next_batch" not in exact, "nothing follows a page that ends with the last room"


async def test_a_search_finds_names_topics_and_aliases_in_any_case(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        await published(world, "Garden")
        await published(world, "kitchen", topic="GARDEN herbs")
        await published(world, "cellar", room_alias_name="under-the-garden")
        await published(world, "attic")
        found = await search(world, filter={"generic_search_term": "garden"})
        assert sorted(names(found)) == ["Garden", "cellar", "kitchen"]
        assert found["total_room_count_estimate"] == 3
        none = await search(world, filter={"generic_search_term": "stable"})
        assert (none["chunk"], none["total_room_count_estimate"]) == ([], 0)


async def test_a_room_leaves_the_list_when_it_is_no_longer_published(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await published(world, "soon gone")
        assert names(await search(world)) == ["soon gone"]
        reply = await world.call(
            ALICE, "PUT", f"/directory/list/room/{room_id}", {"visibility": "private"}
        )
        assert reply.status == 200
        assert (await search(world))["chunk"] == []


@pytest.mark.parametrize("more", [0, 1])
async def test_rooms_beyond_the_bound_are_not_listed(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    monkeypatch.setattr(limits, "PUBLISHED_ROOMS_LOADED", 1)
    async with room_world(shared_database_url) as world:
        for number in range(3):
            await published(world, f"room {number}")
        monkeypatch.setattr(limits, "PUBLISHED_ROOMS_LISTED", 2 + more)
        assert len((await search(world))["chunk"]) == 2 + more
