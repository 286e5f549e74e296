"""Results with their context, state and profiles."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from homeserver import limits
from tests.homeserver.room_world import ALICE, BOB
from tests.homeserver.services.timeline.search.searches import search
from tests.homeserver.sync_world import SyncWorld, bodies, sync_world


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


async def test_the_context_has_the_events_around_a_result(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    await syncs.say(ALICE, room_id, *"abcdefghi")
    wanted = {"before_limit": 3, "after_limit": 1}
    found = await search(syncs.world, "e", event_context=wanted)
    context = found["results"][0]["context"]
    assert bodies(context["events_before"]) == ["d", "c", "b"]
    assert bodies(context["events_after"]) == ["f"]
    assert "profile_info" not in context
    older = await syncs.page(ALICE, room_id, dir="b", start=context["start"], limit=1)
    assert bodies(older.body["chunk"]) == ["a"]
    newer = await syncs.page(ALICE, room_id, dir="f", start=context["end"], limit=1)
    assert bodies(newer.body["chunk"]) == ["g"]


async def test_the_context_has_five_events_on_either_side_by_default(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room()
    await syncs.say(ALICE, room_id, *"abcdefghijklm")
    context = (await search(syncs.world, "g", event_context={}))["results"][0]["context"]
    assert bodies(context["events_before"]) == list("fedcb")
    assert bodies(context["events_after"]) == list("hijkl")
    none = {"before_limit": 0, "after_limit": 0}
    context = (await search(syncs.world, "g", event_context=none))["results"][0]["context"]
    assert (context["events_before"], context["events_after"]) == ([], [])
    assert "context" not in (await search(syncs.world, "g"))["results"][0]


async def test_the_context_hides_what_its_reader_may_not_see(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room(preset="public_chat")
    hidden = {"history_visibility": "joined"}
    await world.put_state(ALICE, room_id, "m.room.history_visibility", hidden)
    await syncs.say(ALICE, room_id, "hidden")
    await syncs.join(room_id, BOB)
    await syncs.say(ALICE, room_id, "x")
    await world.in_room(BOB, "POST", room_id, "leave")
    await syncs.say(ALICE, room_id, "later")
    context = (await search(world, "x", BOB, event_context={}))["results"][0]["context"]
    assert bodies([*context["events_before"], *context["events_after"]]) == []
    assert [event["content"].get("membership") for event in context["events_before"][:1]] == [
        "join"
    ]


async def test_profiles_are_those_of_the_time(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    member = {"membership": "join", "displayname": "Then", "avatar_url": "mxc://a/b"}
    await world.put_state(ALICE, room_id, "m.room.member", member, ALICE)
    await syncs.say(ALICE, room_id, "x")
    await syncs.say(BOB, room_id, "y")
    later = {"membership": "join", "displayname": "Later"}
    await world.put_state(ALICE, room_id, "m.room.member", later, ALICE)
    wanted = {"include_profile": True, "before_limit": 0, "after_limit": 1}
    found = await search(world, "x", event_context=wanted)
    assert found["results"][0]["context"]["profile_info"] == {
        ALICE: {"displayname": "Then", "avatar_url": "mxc://a/b"},
        BOB: {},
    }


async def test_states_are_those_that_the_reader_sees(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room(preset="public_chat", name="before")
    other = await world.room(name="without results")
    await syncs.join(room_id, BOB)
    await syncs.say(ALICE, room_id, "x")
    await world.in_room(BOB, "POST", room_id, "leave")
    await world.put_state(ALICE, room_id, "m.room.name", {"name": "after"})

    async def names(user: str) -> list[str]:
        found = await search(world, "x", ALICE if user == "alice" else BOB, include_state=True)
        assert set(found["state"]) == {room_id} != {other}
        state = found["state"][room_id]
        return [one["content"]["name"] for one in state if one["type"] == "m.room.name"]

    assert await names("alice") == ["after"]
    assert await names("bob") == ["before"]
    assert "state" not in await search(world, "x")


async def test_states_have_a_bounded_number_of_bytes(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        await syncs.say(ALICE, await syncs.world.room(), "x")
    found = await search(syncs.world, "x", include_state=True)
    sizes = [sum(len(orjson.dumps(event)) for event in one) for one in found["state"].values()]
    for more, number in ((-200, 1), (200, 2)):
        monkeypatch.setattr(limits, "SEARCH_STATE_BYTES", sum(sizes) + more)
        assert len((await search(syncs.world, "x", include_state=True))["state"]) == number
