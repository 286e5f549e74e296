"""Timelines of which a filter, or the reader's rights, keep most events out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from homeserver import limits
from tests.homeserver.room_world import ALICE, BOB
from tests.homeserver.sync_world import SyncWorld, bodies, sync_world, types

ONLY_TOPICS = {"room": {"timeline": {"types": ["m.room.topic"], "limit": 1}}}


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


async def room_with_messages_since_a_topic(syncs: SyncWorld, count: int) -> tuple[str, str]:
    """The room's ID, and a token from before the topic."""
    room_id = await syncs.world.room()
    since = (await syncs.get())["next_batch"]
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "far up"})
    await syncs.say(ALICE, room_id, *(str(number) for number in range(count)))
    return room_id, since


async def test_what_was_asked_for_is_found_below_many_other_events(syncs: SyncWorld) -> None:
    room_id, since = await room_with_messages_since_a_topic(syncs, 40)
    room = (await syncs.get(since=since, filter=ONLY_TOPICS))["rooms"]["join"][room_id]
    assert types(room["timeline"]["events"]) == ["m.room.topic"]
    assert room["timeline"]["limited"] is False


async def test_the_look_back_is_bounded(syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    room_id, since = await room_with_messages_since_a_topic(syncs, 12)
    for bound, found in ((12, []), (13, ["m.room.topic"])):
        monkeypatch.setattr(limits, "SYNC_TIMELINE_READ", bound)
        room = (await syncs.get(since=since, filter=ONLY_TOPICS))["rooms"]["join"][room_id]
        assert types(room["timeline"]["events"]) == found
        assert room["timeline"]["limited"] is (bound == 12)
        if bound == 12:
            prev, wanted = room["timeline"]["prev_batch"], ONLY_TOPICS["room"]["timeline"]
            page = await syncs.page(ALICE, room_id, dir="b", start=prev, filter=wanted)
            assert types(page.body["chunk"]) == ["m.room.topic"]


async def test_what_is_hidden_from_the_reader_does_not_empty_a_timeline(
    syncs: SyncWorld,
) -> None:
    """The reader was there, left, and came back to a room that shows members alone what is said."""
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await syncs.world.room(preset="public_chat", initial_state=[visibility])
    await syncs.join(room_id, BOB)
    since = (await syncs.get(BOB))["next_batch"]
    await syncs.say(ALICE, room_id, "seen")
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    await syncs.say(ALICE, room_id, *(f"hidden {number}" for number in range(20)))
    await syncs.join(room_id, BOB)
    wanted = {"room": {"timeline": {"limit": 3}}}
    room = (await syncs.get(BOB, since=since, filter=wanted))["rooms"]["join"][room_id]
    assert types(room["timeline"]["events"]) == ["m.room.message"] + ["m.room.member"] * 2
    assert bodies(room["timeline"]["events"]) == ["seen"]


async def test_without_a_filter_a_timeline_has_so_many_events(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SYNC_TIMELINE_EVENTS", 3)
    room_id = await syncs.world.room()
    for said, limited in (("abc", False), ("defg", True)):
        since = (await syncs.get())["next_batch"]
        await syncs.say(ALICE, room_id, *said)
        timeline = (await syncs.get(since=since))["rooms"]["join"][room_id]["timeline"]
        assert bodies(timeline["events"]) == list(said[-3:])
        assert timeline["limited"] is limited
