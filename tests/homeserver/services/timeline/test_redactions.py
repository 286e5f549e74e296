"""Redactions of other servers: clients get those that were applied, and no others.

Spec: room version 3, "Handling redactions".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import EventId
from federation.graph.building import EventDraft
from tests.homeserver.peer import PETER, message, redaction
from tests.homeserver.room_world import ALICE
from tests.homeserver.sync_world import SyncWorld, sync_world, types


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


async def shared_room(syncs: SyncWorld, **body: Any) -> str:
    """A room of ALICE and PETER."""
    room_id = await syncs.world.room(preset="public_chat", **body)
    await syncs.peer.join(room_id)
    return room_id


async def read(syncs: SyncWorld, room_id: str, since: str | None) -> list[dict[str, Any]]:
    """What a sync and a page have; both must agree."""
    rooms = (await syncs.get(since=since)).get("rooms", {}).get("join", {})
    events: list[dict[str, Any]] = rooms.get(room_id, {"timeline": {"events": []}})["timeline"][
        "events"
    ]
    page = (await syncs.page(ALICE, room_id, dir="b", limit=50)).body["chunk"]
    ids = {event["event_id"] for event in page}
    assert {event["event_id"] for event in events} <= ids
    assert [e for e in types(page) if e == "m.room.redaction"] == [
        e for e in types(events) if e == "m.room.redaction"
    ]
    return events


async def test_a_redaction_by_who_may_not_redact_is_not_told(syncs: SyncWorld) -> None:
    room_id = await shared_room(syncs)
    since = (await syncs.get())["next_batch"]
    [target] = await syncs.say(ALICE, room_id, "mine")
    refused = await syncs.peer.send(room_id, redaction(target))
    [told] = await read(syncs, room_id, since)
    assert told["content"]["body"] == "mine"
    for path in ("event", "context"):
        reply = await syncs.world.in_room(ALICE, "GET", room_id, f"{path}/{refused}")
        assert reply.errcode == "M_NOT_FOUND", path


async def test_a_redaction_by_the_targets_server_or_a_moderator_is_told(syncs: SyncWorld) -> None:
    levels = {"users": {ALICE: 100, PETER: 50}}
    room_id = await shared_room(syncs, power_level_content_override=levels)
    since = (await syncs.get())["next_batch"]
    [of_alice] = await syncs.say(ALICE, room_id, "mine")
    of_peter = await syncs.peer.say(room_id, "theirs")
    for target in (of_alice, of_peter):
        await syncs.peer.send(room_id, redaction(target))
    told = await read(syncs, room_id, since)
    assert types(told) == ["m.room.message"] * 2 + ["m.room.redaction"] * 2
    assert [event["content"] for event in told[:2]] == [{}, {}]


async def test_a_redaction_waits_for_its_target(syncs: SyncWorld) -> None:
    room_id = await shared_room(syncs)
    since = (await syncs.get())["next_batch"]
    room = await syncs.peer.room(room_id)
    parents = [head.event_id for head in room.view.heads]
    target = await syncs.peer.build(room_id, message("secret"), parents=parents)
    early = await syncs.peer.build(room_id, redaction(target.event_id), parents=parents)
    await syncs.peer.give(early)
    assert await read(syncs, room_id, since) == []
    since = (await syncs.get(since=since))["next_batch"]
    await syncs.peer.give(target)
    told = await syncs.get(since=since)
    [event, by] = told["rooms"]["join"][room_id]["timeline"]["events"]
    assert event["content"] == {}
    assert event["unsigned"]["redacted_because"]["event_id"] == by["event_id"] == early.event_id
    reply = await syncs.world.in_room(ALICE, "GET", room_id, f"event/{early.event_id}")
    assert reply.status == 200


async def test_of_several_waiting_redactions_the_valid_one_counts(syncs: SyncWorld) -> None:
    mallory = "@mallory:elsewhere.example"
    levels = {"users": {ALICE: 100}, "events_default": 0}
    room_id = await shared_room(syncs, power_level_content_override=levels)
    room = await syncs.peer.room(room_id)
    parents = [head.event_id for head in room.view.heads]
    target = await syncs.peer.build(room_id, message("secret"), parents=parents)
    valid = await syncs.peer.send(room_id, redaction(target.event_id), parents=parents)
    join = EventDraft("m.room.member", mallory, {"membership": "join"}, mallory)  # type: ignore[arg-type]
    await syncs.peer.remote_event_writer.accept_membership(await syncs.peer.build(room_id, join))
    lie = redaction(target.event_id, mallory)  # type: ignore[arg-type]
    invalid = await syncs.peer.send(room_id, lie)
    await syncs.peer.give(target)
    [page] = [
        event
        for event in (await syncs.page(ALICE, room_id, dir="b")).body["chunk"]
        if event["event_id"] == target.event_id
    ]
    assert page["content"] == {}
    assert page["unsigned"]["redacted_because"]["event_id"] == valid
    reply = await syncs.world.in_room(ALICE, "GET", room_id, f"event/{invalid}")
    assert reply.errcode == "M_NOT_FOUND"


async def test_a_redaction_counts_by_the_rights_at_its_place(syncs: SyncWorld) -> None:
    """A moderator who was demoted since had the right then."""
    levels = {"users": {ALICE: 100, PETER: 50}}
    room_id = await shared_room(syncs, power_level_content_override=levels)
    [target] = await syncs.say(ALICE, room_id, "mine")
    room = await syncs.peer.room(room_id)
    parents = [head.event_id for head in room.view.heads]
    late = await syncs.peer.build(room_id, redaction(target), parents=parents)
    content = {"users": {ALICE: 100}}
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "other branch"})
    reply = await syncs.world.put_state(ALICE, room_id, "m.room.power_levels", content)
    assert reply.status == 200, reply
    await syncs.peer.give(late)
    [shown] = [e for e in await read(syncs, room_id, None) if e["event_id"] == target]
    assert shown["content"] == {}


async def test_a_redaction_as_state_is_refused_and_redacts_nothing(syncs: SyncWorld) -> None:
    levels = {"users": {ALICE: 100, PETER: 50}}
    room_id = await shared_room(syncs, power_level_content_override=levels)
    [target] = await syncs.say(ALICE, room_id, "mine")
    content = {"redacts": target}
    reply = await syncs.world.put_state(ALICE, room_id, "m.room.redaction", content)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    wanted = {"type": "m.room.redaction", "content": content}
    reply = await syncs.world.call(ALICE, "POST", "/createRoom", {"initial_state": [wanted]})
    assert (reply.status, reply.errcode) == (400, "M_INVALID_ROOM_STATE")
    since = (await syncs.get())["next_batch"]
    draft = EventDraft("m.room.redaction", PETER, content, "")
    await syncs.peer.send(room_id, draft)
    assert await read(syncs, room_id, since) == []
    first = (await syncs.get())["rooms"]["join"][room_id]
    whole = [*first["state"]["events"], *first["timeline"]["events"]]
    assert "m.room.redaction" not in types(whole)
    [shown] = [event for event in whole if event["event_id"] == EventId(target)]
    assert shown["content"]["body"] == "mine"
