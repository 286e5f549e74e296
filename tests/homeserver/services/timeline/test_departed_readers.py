"""What who left, was banned, or was asked back may read: never later than when they were there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.homeserver.room_world import ALICE, BOB, CAROL
from tests.homeserver.sync_world import SyncWorld, bodies, encoded, sync_world


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


def topics(state: list[dict[str, Any]]) -> list[str]:
    return [event["content"]["topic"] for event in state if event["type"] == "m.room.topic"]


def members(state: list[dict[str, Any]]) -> set[str]:
    return {
        event["state_key"]
        for event in state
        if event["type"] == "m.room.member" and event["content"]["membership"] == "join"
    }


async def after_bob(syncs: SyncWorld, ending: str = "leave") -> tuple[str, str]:
    """A room that BOB was in, and in which much has changed since; the ID of a message of then."""
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "old"})
    await syncs.join(room_id, BOB)
    [said] = await syncs.say(ALICE, room_id, "then")
    ends = {"membership": ending}
    assert (await syncs.world.put_state(ALICE, room_id, "m.room.member", ends, BOB)).status == 200
    await syncs.say(ALICE, room_id, "later")
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "secret"})
    await syncs.join(room_id, CAROL)
    changed = {"membership": "join", "displayname": "Alice, later"}
    await syncs.world.put_state(ALICE, room_id, "m.room.member", changed, ALICE)
    return room_id, said


@pytest.mark.parametrize("ending", ["leave", "ban"])
async def test_the_context_of_an_event_has_the_state_of_the_last_one_that_is_shown(
    syncs: SyncWorld, ending: str
) -> None:
    room_id, said = await after_bob(syncs, ending)
    reply = await syncs.world.in_room(BOB, "GET", room_id, f"context/{said}")
    assert reply.status == 200, reply
    assert topics(reply.body["state"]) == ["old"]
    assert members(reply.body["state"]) == {ALICE}
    assert [event["type"] for event in reply.body["events_after"]] == ["m.room.member"]
    alone = await syncs.world.in_room(BOB, "GET", room_id, f"context/{said}", query="limit=0")
    assert members(alone.body["state"]) == {ALICE, BOB}


async def test_a_context_whose_end_is_filtered_out_has_the_state_before_it(
    syncs: SyncWorld,
) -> None:
    room_id, said = await after_bob(syncs)
    query = encoded({"filter": {"types": ["m.room.message"]}})
    reply = await syncs.world.in_room(ALICE, "GET", room_id, f"context/{said}", query=query)
    assert bodies(reply.body["events_after"]) == ["later"]
    [last] = await syncs.say(CAROL, room_id, "last")
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "newest"})
    for wanted, topic in (({}, "newest"), ({"not_senders": [ALICE]}, "secret")):
        query = encoded({"filter": wanted})
        reply = await syncs.world.in_room(CAROL, "GET", room_id, f"context/{last}", query=query)
        assert topics(reply.body["state"]) == [topic]


async def test_members_that_are_loaded_lazily_are_those_of_then(syncs: SyncWorld) -> None:
    room_id, _ = await after_bob(syncs)
    query: dict[str, Any] = {"dir": "b", "filter": {"lazy_load_members": True}}
    page = await syncs.page(BOB, room_id, **query)
    [alice] = [event for event in page.body["state"] if event["state_key"] == ALICE]
    assert alice["content"]["displayname"] == "Alice"
    own = await syncs.page(ALICE, room_id, **query)
    [alice] = [event for event in own.body["state"] if event["state_key"] == ALICE]
    assert alice["content"]["displayname"] == "Alice, later"


async def test_paging_begins_where_the_reader_left(syncs: SyncWorld) -> None:
    room_id, _ = await after_bob(syncs)
    await syncs.say(ALICE, room_id, *(str(number) for number in range(20)))
    page = await syncs.page(BOB, room_id, dir="b", limit=2)
    assert page.body["chunk"][0]["state_key"] == BOB
    assert bodies(page.body["chunk"]) == ["then"]


async def test_whoever_is_asked_back_reads_the_state_of_when_they_left(syncs: SyncWorld) -> None:
    room_id, _ = await after_bob(syncs)
    invite = {"membership": "invite"}
    assert (await syncs.world.put_state(ALICE, room_id, "m.room.member", invite, BOB)).status == 200
    state = await syncs.world.in_room(BOB, "GET", room_id, "state")
    assert state.status == 200, state
    assert topics(state.body) == ["old"]


async def test_who_sees_an_event_by_an_invite_alone_gets_no_newer_state(syncs: SyncWorld) -> None:
    room_id, _ = await after_bob(syncs)
    setting = {"history_visibility": "invited"}
    await syncs.world.put_state(ALICE, room_id, "m.room.history_visibility", setting)
    await syncs.world.put_state(ALICE, room_id, "m.room.member", {"membership": "invite"}, BOB)
    [said] = await syncs.say(ALICE, room_id, "since the invite")
    reply = await syncs.world.in_room(BOB, "GET", room_id, f"context/{said}", query="limit=0")
    assert reply.status == 200, reply
    assert topics(reply.body["state"]) == ["old"]


async def test_members_at_a_point_that_the_reader_may_not_see_are_those_of_now(
    syncs: SyncWorld,
) -> None:
    hidden = {"history_visibility": "joined"}
    room_id = await syncs.world.room(
        preset="public_chat",
        initial_state=[{"type": "m.room.history_visibility", "content": hidden}],
    )
    await syncs.join(room_id, CAROL)
    [before] = await syncs.say(ALICE, room_id, "before")
    context = await syncs.world.in_room(ALICE, "GET", room_id, f"context/{before}", query="limit=0")
    at = context.body["end"]
    await syncs.world.in_room(CAROL, "POST", room_id, "leave")
    await syncs.join(room_id, BOB)
    query = encoded({"at": at, "membership": "join"})
    of_alice = await syncs.world.in_room(ALICE, "GET", room_id, "members", query=query)
    assert members(of_alice.body["chunk"]) == {ALICE, CAROL}
    of_bob = await syncs.world.in_room(BOB, "GET", room_id, "members", query=query)
    assert members(of_bob.body["chunk"]) == {ALICE, BOB}
