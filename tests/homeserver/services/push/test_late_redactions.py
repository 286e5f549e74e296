"""Redactions whose effect is in no entry of the log: those that waited for their target, that came
as history, or that took effect when they were verified. None of the events counts any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import EventId, RoomId, StateKey
from federation.graph.admission import Accepted
from tests.homeserver.peer import PETER, message, redaction
from tests.homeserver.room_world import ALICE, BOB
from tests.homeserver.sync_world import SyncWorld, sync_world


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    """Yield a world of syncs."""
    async with sync_world(postgres_url) as world:
        yield world


async def shared_room(syncs: SyncWorld) -> RoomId:
    """A room of ALICE, BOB and PETER, who may redact."""
    levels = {"users": {ALICE: 100, PETER: 50}}
    room_id = await syncs.world.room(preset="public_chat", power_level_content_override=levels)
    await syncs.join(room_id, BOB)
    await syncs.peer.join(room_id)
    return room_id


async def unread(syncs: SyncWorld, room_id: str) -> int:
    """How many events BOB hasn't read."""
    room = (await syncs.get(BOB))["rooms"]["join"][room_id]
    found: int = room["unread_notifications"]["notification_count"]
    return found


async def heads(syncs: SyncWorld, room_id: str) -> list[EventId]:
    """The newest events of the room."""
    return [head.event_id for head in (await syncs.peer.room(room_id)).view.heads]


async def state_of(syncs: SyncWorld, room_id: str) -> dict[StateKey, EventId]:
    """The room's state now."""
    view = (await syncs.peer.room(room_id)).view
    return {key: ref.event_id for key, ref in view.state.items()}


async def test_an_event_whose_redaction_waited_for_it_is_not_counted(syncs: SyncWorld) -> None:
    room_id = await shared_room(syncs)
    parents = await heads(syncs, room_id)
    target = await syncs.peer.build(room_id, message("secret"), parents=parents)
    await syncs.peer.send(room_id, redaction(target.event_id), parents=parents)
    await syncs.peer.give(target)
    assert await unread(syncs, room_id) == 0


@pytest.mark.parametrize("read", [False, True], ids=["new to the reader", "known to the reader"])
async def test_a_redaction_that_comes_as_history_takes_its_event_back(
    syncs: SyncWorld, read: bool
) -> None:
    room_id = await shared_room(syncs)
    target = await syncs.peer.say(room_id, "secret")
    by = await syncs.peer.build(room_id, redaction(target))
    above = await syncs.peer.build(room_id, message("above the gap"), parents=[by.event_id])
    writer, state = syncs.peer.remote_event_writer, await state_of(syncs, room_id)
    await writer.accept_with_state(above, Accepted(), state)
    if read:
        assert await unread(syncs, room_id) == 2
    await writer.store_backfill([by], {})
    assert await unread(syncs, room_id) == 1


async def waiting_redaction(syncs: SyncWorld) -> tuple[RoomId, Any]:
    """A room with a message that BOB hasn't read, and a redaction of it that waits until it is
    verified: PETER has lost the power since. Also returns the event that fills the gap below."""
    room_id = await shared_room(syncs)
    [target] = await syncs.say(ALICE, room_id, "secret")
    gap = await syncs.peer.build(room_id, message("gap"))
    by = await syncs.peer.build(room_id, redaction(target), parents=[gap.event_id])
    state = await state_of(syncs, room_id)
    levels = {"users": {ALICE: 100}, "redact": 50}
    reply = await syncs.world.put_state(ALICE, room_id, "m.room.power_levels", levels)
    assert reply.status == 200
    await syncs.peer.remote_event_writer.accept_with_state(by, Accepted(), state)
    assert await unread(syncs, room_id) == 1
    return room_id, gap


async def verify(syncs: SyncWorld, room_id: RoomId, gap: Any) -> None:
    """Closes the gap, so that the redaction takes effect."""
    await syncs.peer.remote_event_writer.store_backfill([gap], {})
    await syncs.peer.remote_event_writer.rechecks.drain(room_id)


async def test_a_redaction_that_is_verified_later_takes_its_event_back(syncs: SyncWorld) -> None:
    room_id, gap = await waiting_redaction(syncs)
    await verify(syncs, room_id, gap)
    assert await unread(syncs, room_id) == 0


async def test_a_crash_before_it_is_taken_back_changes_nothing(postgres_url: str) -> None:
    async with sync_world(postgres_url) as syncs:
        room_id, gap = await waiting_redaction(syncs)
        await syncs.world.push.counts.settled()
        counting = syncs.world.counting
        assert counting is not None
        counting.cancel()
        await asyncio.wait([counting])
        await verify(syncs, room_id, gap)
    for _ in range(2):  # the second start finds nothing left to do
        async with sync_world(postgres_url) as syncs:
            assert await unread(syncs, room_id) == 0
