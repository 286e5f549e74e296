"""The form of events in a sync's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.homeserver.room_world import ALICE, BOB
from tests.homeserver.sync_world import SyncWorld, sync_world

FEDERATION: dict[str, Any] = {"event_format": "federation", "room": {"timeline": {"limit": 3}}}


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


@pytest.mark.parametrize("use_state_after", [False, True])
async def test_the_form_of_federation_holds_for_state_and_timeline_of_all_rooms(
    syncs: SyncWorld, use_state_after: bool
) -> None:
    joined = await syncs.world.room(BOB, name="Hall")
    left = await syncs.world.room(ALICE, preset="public_chat", name="Yard")
    await syncs.join(left, BOB)
    for room_id in (joined, left):
        await syncs.say(BOB, room_id, f"hello {room_id}")
    [gone] = await syncs.say(BOB, joined, "gone")
    await syncs.world.in_room(BOB, "PUT", joined, f"redact/{gone}/t", {})
    await syncs.world.in_room(BOB, "POST", left, "leave")
    wanted = {**FEDERATION, "room": {"timeline": {"limit": 3}, "include_leave": True}}
    answer = await syncs.get(BOB, filter=wanted, use_state_after=use_state_after)
    for section, room_id in (("join", joined), ("leave", left)):
        room = answer["rooms"][section][room_id]
        state = room["state_after" if use_state_after else "state"]["events"]
        events = [*state, *room["timeline"]["events"]]
        assert len(state) > 3
        redacted = [e["unsigned"] for e in events if "redacted_because" in e.get("unsigned", {})]
        assert len(redacted) == (section == "join")
        for event in [*events, *(one["redacted_because"] for one in redacted)]:
            assert {"hashes", "signatures", "prev_events", "auth_events", "depth"} <= set(event)
            assert event["event_id"].startswith("$")


async def test_who_left_does_not_learn_of_a_redaction_since(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    target, early = await syncs.say(BOB, room_id, "memberships", "early")
    await syncs.world.in_room(ALICE, "PUT", room_id, f"redact/{early}/t", {"reason": "seen"})
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    await syncs.world.in_room(ALICE, "PUT", room_id, f"redact/{target}/t", {"reason": "unseen"})
    wanted = {"room": {"include_leave": True}}
    answer = await syncs.get(BOB, filter=wanted)
    page = await syncs.page(BOB, room_id, dir="b", limit=50)
    one = await syncs.world.in_room(BOB, "GET", room_id, f"event/{target}")
    both = [answer["rooms"]["leave"][room_id]["timeline"]["events"], page.body["chunk"]]
    for events in (*both, [*both[0], one.body]):
        shown = {event["event_id"]: event for event in events}
        assert "unseen" not in str(events)
        assert shown[target]["content"] == {}
        because = shown[early]["unsigned"]["redacted_because"]
        assert because["content"]["reason"] == "seen"
