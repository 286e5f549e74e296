"""Rooms that the reader isn't in any more, as syncs tell of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import EventId, RoomId
from federation.events.room_versions import ROOM_VERSIONS
from federation.events.signing import SigningKey
from federation.graph.building import Edges, EventDraft, build_event
from homeserver.engine.entries import MembershipEntry, Unit
from tests.homeserver.peer import PETER, THERE
from tests.homeserver.room_world import ALICE, BOB
from tests.homeserver.sync_world import SyncWorld, bodies, sync_world, types


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


async def left_room(syncs: SyncWorld, room_id: str, since: str, **query: Any) -> dict[str, Any]:
    """The room among those that BOB left."""
    answer = await syncs.get(BOB, since=since, **query)
    assert set(answer["rooms"]) == {"leave"}, answer
    room: dict[str, Any] = answer["rooms"]["leave"][room_id]
    return room


async def act(syncs: SyncWorld, room_id: str, rest: str, **body: Any) -> None:
    """ALICE does something with BOB."""
    reply = await syncs.world.in_room(ALICE, "POST", room_id, rest, {"user_id": BOB, **body})
    assert reply.status == 200, reply


async def test_a_room_that_was_joined_and_left_between_two_syncs_comes_whole(
    syncs: SyncWorld,
) -> None:
    room_id = await syncs.world.room(preset="public_chat", name="Hall")
    since = (await syncs.get(BOB))["next_batch"]
    await syncs.join(room_id, BOB)
    await syncs.say(ALICE, room_id, "hello")
    await act(syncs, room_id, "kick", reason="enough")
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "secret"})
    room = await left_room(syncs, room_id, since)
    events = room["timeline"]["events"]
    assert bodies(events) == ["hello"]
    assert events[-1]["content"] == {"membership": "leave", "reason": "enough"}
    whole = types([*room["state"]["events"], *events])
    assert {"m.room.create", "m.room.name", "m.room.power_levels"} <= set(whole)
    assert "m.room.topic" not in whole


@pytest.mark.parametrize("rest", ["kick", "ban", "refuse"])
async def test_the_end_of_an_invite_is_told_with_its_sender_and_reason(
    syncs: SyncWorld, rest: str
) -> None:
    room_id = await syncs.world.room(preset="private_chat", invite=[BOB], name="Hall")
    since = (await syncs.get(BOB))["next_batch"]
    if rest == "refuse":
        await syncs.world.in_room(BOB, "POST", room_id, "leave", {"reason": "why"})
    else:
        await act(syncs, room_id, rest, reason="why")
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "secret"})
    room = await left_room(syncs, room_id, since)
    [event] = room["timeline"]["events"]
    assert event["sender"] == (BOB if rest == "refuse" else ALICE)
    assert event["content"]["reason"] == "why"
    assert event["unsigned"]["membership"] == event["content"]["membership"]
    assert room["state"]["events"] == []


async def test_a_withdrawn_knock_is_told(syncs: SyncWorld) -> None:
    rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room_id = await syncs.world.room(initial_state=[rules])
    assert (await syncs.world.call(BOB, "POST", f"/knock/{room_id}")).status == 200
    since = (await syncs.get(BOB))["next_batch"]
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    room = await left_room(syncs, room_id, since)
    assert [event["state_key"] for event in room["timeline"]["events"]] == [BOB]


async def test_a_filter_that_is_against_the_event_has_it_in_state(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="private_chat", invite=[BOB])
    since = (await syncs.get(BOB))["next_batch"]
    await act(syncs, room_id, "kick")
    for timeline in ({"types": ["m.room.message"]}, {"limit": 0}):
        room = await left_room(syncs, room_id, since, filter={"room": {"timeline": timeline}})
        assert room["timeline"]["events"] == []
        assert [event["state_key"] for event in room["state"]["events"]] == [BOB]


async def test_a_ban_from_a_branch_without_the_reader_is_told(syncs: SyncWorld) -> None:
    """A moderator elsewhere bans before the join came there."""
    levels = {"users": {ALICE: 100, PETER: 50}}
    room_id = await syncs.world.room(preset="public_chat", power_level_content_override=levels)
    await syncs.peer.join(room_id)
    room = await syncs.peer.room(room_id)
    parents = [head.event_id for head in room.view.heads]
    content = {"membership": "ban", "reason": "spam"}
    draft = EventDraft("m.room.member", PETER, content, BOB)
    ban = await syncs.peer.build(room_id, draft, parents=parents)
    await syncs.join(room_id, BOB)
    since = (await syncs.get(BOB))["next_batch"]
    await syncs.peer.give(ban)
    left = await left_room(syncs, room_id, since)
    [event] = left["timeline"]["events"]
    assert (event["sender"], event["content"]) == (PETER, content)


async def test_who_left_and_was_banned_then_hears_of_the_ban_alone(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOB)
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    since = (await syncs.get(BOB))["next_batch"]
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "secret"})
    await act(syncs, room_id, "ban")
    room = await left_room(syncs, room_id, since)
    assert [e["content"]["membership"] for e in room["timeline"]["events"]] == ["ban"]
    assert room["state"]["events"] == []


async def test_state_of_a_left_room_is_as_of_leaving_for_lazy_clients_too(
    syncs: SyncWorld,
) -> None:
    room_id = await syncs.world.room(preset="public_chat", topic="then")
    await syncs.join(room_id, BOB)
    before = (await syncs.world.get_state(ALICE, room_id, "m.room.member", ALICE)).body
    await syncs.say(ALICE, room_id, "hello")
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    syncs.world.profiles[ALICE] = {"displayname": "Somebody else"}
    content = {"membership": "join", "displayname": "Somebody else"}
    await syncs.world.put_state(ALICE, room_id, "m.room.member", content, ALICE)
    await syncs.world.put_state(ALICE, room_id, "m.room.topic", {"topic": "now"})
    wanted = {"room": {"include_leave": True, "state": {"lazy_load_members": True}}}
    answer = await syncs.get(BOB, filter=wanted)
    room = answer["rooms"]["leave"][room_id]
    state = {(e["type"], e["state_key"]): e["content"] for e in room["state"]["events"]}
    state |= {
        (e["type"], e["state_key"]): e["content"]
        for e in room["timeline"]["events"]
        if "state_key" in e
    }
    assert state["m.room.topic", ""]["topic"] == "then"
    assert state["m.room.member", ALICE] == before
    assert EventId(room["timeline"]["events"][-1]["event_id"])


@pytest.mark.parametrize("membership", ["leave", "ban"])
async def test_the_end_of_an_invite_from_afar_is_told_with_its_sender_and_reason(
    syncs: SyncWorld, membership: str
) -> None:
    room_id = RoomId("!afar:there.example")
    await syncs.world.remote.invite_ours(room_id, BOB, PETER)
    since = (await syncs.get(BOB))["next_batch"]
    content = {"membership": membership, "reason": "a mistake"}
    event = build_event(
        EventDraft("m.room.member", PETER, content, BOB),
        version=ROOM_VERSIONS["11"],
        room_id=room_id,
        edges=Edges([EventId("$" + "p" * 43)], [EventId("$" + "a" * 43)], 5),
        now_ms=1_000,
        server_name=THERE,
        key=SigningKey.generate(bytes([7]) * 32, "there"),
    )
    entry = MembershipEntry(BOB, room_id, membership, event.event_id, PETER, b"[]", event.raw, "11")
    await syncs.world.committer.submit(Unit([entry]))
    room = await left_room(syncs, room_id, since)
    [told] = room["timeline"]["events"]
    assert (told["sender"], told["content"]) == (PETER, content)
    assert told["event_id"] == event.event_id
