"""Timelines of which a filter, or the reader's rights, keep most events out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.graph.building import EventDraft
from homeserver import limits
from homeserver.engine.rooms import reader
from tests.homeserver.peer import PETER
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


async def test_a_state_event_that_lost_its_fork_is_told_to_who_takes_no_state_of_timelines(
    syncs: SyncWorld,
) -> None:
    """Timelines and pages agree then. A client that doesn't ask for `state_after` MUST apply the
    state events of its timeline (sync.yaml, `state_after`): it would end with the event that lost,
    and finds it by paging alone."""
    levels = {"users": {ALICE: 100, PETER: 50}}
    room_id = await syncs.world.room(
        preset="public_chat", power_level_content_override=levels, room_version="11"
    )
    await syncs.peer.join(room_id)
    since = (await syncs.get())["next_batch"]
    fork = [head.event_id for head in (await syncs.peer.room(room_id)).view.heads]
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "won"})
    before = (await syncs.get())["next_batch"]
    draft = EventDraft("m.room.topic", PETER, {"topic": "lost"}, "", origin_server_ts=1)
    lost = await syncs.peer.send(room_id, draft, parents=fork)
    await syncs.say(ALICE, room_id, "after")
    newest = await syncs.page(ALICE, room_id, dir="b", limit=3)
    paged = [event["event_id"] for event in newest.body["chunk"]][::-1]
    assert paged[1] == lost
    for start in (since, before):
        room = (await syncs.get(since=start, use_state_after=True))["rooms"]["join"][room_id]
        timeline = [event["event_id"] for event in room["timeline"]["events"]]
        assert timeline == paged[-len(timeline) :]
        assert lost in timeline
        topics = [one for one in room["state_after"]["events"] if one["type"] == "m.room.topic"]
        assert lost not in [one["event_id"] for one in topics]
        room = (await syncs.get(since=start))["rooms"]["join"][room_id]
        events = [*room["state"]["events"], *room["timeline"]["events"]]
        assert lost not in [event["event_id"] for event in events]
        topics = [event for event in events if event["type"] == "m.room.topic"]
        assert [one["content"]["topic"] for one in topics] == ["won"] * (start == since)


async def test_so_much_more_is_read_each_time(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few queries find what lies far up, and what lies near isn't looked for far up."""
    _, since = await room_with_messages_since_a_topic(syncs, 40)
    limit, read = 2, list[int]()
    newest = reader.Reader.newest

    async def noted(self: Any, *arguments: Any, limit: int, **options: Any) -> Any:
        read.append(limit)
        return await newest(self, *arguments, limit=limit, **options)

    monkeypatch.setattr(reader.Reader, "newest", noted)
    wanted = {"room": {"timeline": {"types": ["m.room.topic"], "limit": limit}}}
    await syncs.get(since=since, filter=wanted)
    times = limits.SYNC_TIMELINE_READ_TIMES
    assert read[:3] == [limit, limit * times, limit * times**2]
