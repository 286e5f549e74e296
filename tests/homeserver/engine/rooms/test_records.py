"""Resolutions that changed current state are recorded with what they were made of."""

from __future__ import annotations

import pytest

from federation.events.event import Event
from federation.events.ids import EventId
from federation.events.room_versions import room_version
from federation.graph.admission import SoftFailed
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from homeserver import limits
from homeserver.engine.rooms.room import Room
from homeserver.engine.rooms.snapshots import StateMap, state_of
from homeserver.storage.rooms.state_changes import ResolutionRow
from tests.federation.graph.large_room import LEVELS, LargeRoom, member_of
from tests.homeserver.counted import counted
from tests.homeserver.engine.large_engine_room import (
    ROOM_NID,
    LargeWorld,
    large_world,
    message,
    with_parents,
)

USER = member_of(1)
TOPIC = ("m.room.topic", "")


def moderated() -> LargeRoom:
    """A room with a moderator."""
    large = LargeRoom(room_version("12"), 5)
    large.levels({USER: 50})
    large.settle()
    return large


def topic_and_demotion(large: LargeRoom) -> tuple[Event, Event]:
    """The moderator sets a topic; beside it the admin takes the power away."""
    [topic] = large.beside(
        [lambda: large.add("m.room.topic", "", {"topic": "t"}, cites=(LEVELS,), sender=USER)]
    )
    [demotion] = large.beside([lambda: large.levels({USER: 0})])
    return topic, demotion


async def records(world: LargeWorld) -> list[ResolutionRow]:
    return list(await world.store.state_changes.resolutions(ROOM_NID))


async def stored_state(world: LargeWorld, room: Room, snapshot: int) -> StateMap:
    """A snapshot as the tables have it."""
    rows = await world.store.snapshots.chains([(ROOM_NID, snapshot)])
    assert rows, "the snapshot is stored"
    return state_of(await world.engine.rooms.loader.chain(room.row_id, snapshot))


async def test_a_merge_that_takes_back_a_topic_is_recorded_with_its_inputs() -> None:
    large = moderated()
    topic, demotion = topic_and_demotion(large)
    async with large_world(large) as world:
        room = await world.room()
        old = room.view.heads[0].event_id
        await world.accept(topic, [old])
        before = room.view.state
        assert TOPIC in before
        assert await records(world) == []
        await world.accept(demotion, [old])
        assert TOPIC not in room.view.state
        [record] = await records(world)
        assert record.event_id == demotion.event_id
        assert record.position == room.view.position
        assert 1_700_000_000_000 < record.made_ms < 1_700_000_001_000
        assert await stored_state(world, room, record.state_before) == before
        assert await stored_state(world, room, record.state_after) == room.view.state
        assert record.branch_events == [demotion.event_id, topic.event_id]
        branches = [
            await stored_state(world, room, snapshot) for snapshot in record.branch_snapshots
        ]
        assert [branch[LEVELS].event_id for branch in branches] == [
            demotion.event_id,
            large.base[LEVELS],
        ]
        assert [TOPIC in branch for branch in branches] == [False, True]
        assert counted(world.metrics, "state_resolutions", changed="yes") == 1
        assert counted(world.metrics, "state_resolutions", changed="no") == 0


async def test_ordinary_events_write_no_record() -> None:
    large = moderated()
    async with large_world(large) as world:
        room = await world.room()
        parent = room.view.heads[0].event_id
        for number in range(3):
            name = {"name": str(number)}
            large_event = large.beside(
                [lambda name=name: large.add("m.room.name", "", name, cites=(LEVELS,))]
            )
            parent = await world.branch([*large_event, message(large, number)], parent)
        forked = [await world.accept(message(large, number), [parent]) for number in range(3)]
        await world.accept(message(large, 9), [event.event_id for event in forked])
        assert len(room.view.heads) == 1
        assert await records(world) == []
        assert counted(world.metrics, "state_resolutions", changed="yes") == 0


async def test_a_fork_whose_state_is_joined_without_loss_is_counted_but_not_recorded() -> None:
    large = moderated()
    async with large_world(large) as world:
        parent = (await world.room()).view.heads[0].event_id
        for kind in ("m.one", "m.two"):
            event = large.beside([lambda kind=kind: large.add(kind, "", {}, cites=(LEVELS,))])
            await world.branch(event, parent)
        assert await records(world) == []
        assert counted(world.metrics, "state_resolutions", changed="no") == 1


async def test_state_that_a_soft_failed_parent_brings_is_recorded() -> None:
    large = moderated()
    [soft] = large.beside([lambda: large.add("m.room.topic", "", {}, cites=(LEVELS,))])
    [other] = large.beside([lambda: large.add("m.other", "", {}, cites=(LEVELS,))])
    async with large_world(large) as world:
        room = await world.room()
        old = room.view.heads[0].event_id
        verdict = SoftFailed(AuthFailure(AuthRule.LEVEL_TOO_LOW, "as of now"))
        await world.engine.remote_event_writer.accept(with_parents(soft, [old]), verdict)
        await world.accept(other, [old])
        assert TOPIC not in room.view.state
        merge = await world.accept(message(large, 1), [other.event_id, soft.event_id])
        assert room.view.state[TOPIC].event_id == soft.event_id
        [record] = await records(world)
        assert record.event_id == merge.event_id
        assert record.branch_events == [other.event_id, soft.event_id]
        after = [await stored_state(world, room, one) for one in record.branch_snapshots]
        assert [TOPIC in state for state in after] == [False, True]


@pytest.mark.parametrize("count", [2, 3])
async def test_a_record_past_the_bound_drops_the_oldest(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESOLUTIONS_KEPT", 2)
    large = moderated()
    async with large_world(large) as world:
        room = await world.room()
        made: list[EventId] = []
        for _ in range(count):
            topic, demotion = topic_and_demotion(large)
            old = [head.event_id for head in room.view.heads]
            await world.accept(topic, old)
            await world.accept(demotion, old)
            made.append(demotion.event_id)
            again = large.beside([lambda: large.levels({USER: 50})])
            heads = [head.event_id for head in room.view.heads]
            await world.accept(again[0], heads)
        assert [one.event_id for one in await records(world)] == list(reversed(made))[:2]
