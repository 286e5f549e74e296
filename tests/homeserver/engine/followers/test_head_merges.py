"""Many forward extremities: merged by an event of ours, or bounded where none of us may send."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, UserId
from federation.events.room_versions import room_version
from homeserver import limits
from homeserver.engine.entries import EventEntry
from homeserver.rules.rooms.head_merges import MERGE_TYPE
from tests.federation.graph.large_room import ADMIN, LargeRoom
from tests.homeserver.engine.large_engine_room import LargeWorld, large_world

VERSIONS = ["2", "12"]


def forked_joins(large: LargeRoom, count: int) -> list[Event]:
    """Joins that are all made after the same event."""
    users = [UserId(f"@new{number}:other") for number in range(count)]
    return large.beside([lambda user=user: large.member(user, "join") for user in users])


async def fork(world: LargeWorld, joins: Sequence[Event]) -> None:
    parent = EventId(f"$e{len(world.large.settled) - 1}:a")
    for join in joins:
        await world.accept(join, [parent])


def merges(world: LargeWorld) -> list[EventEntry]:
    return [
        placed.entry
        for placed in world.engine.committer.tail.since(world.engine.committer.tail.start)
        if isinstance(placed.entry, EventEntry) and placed.entry.event.type == MERGE_TYPE
    ]


async def joined(world: LargeWorld, events: Sequence[Event]) -> int:
    room = await world.room()
    return sum(room.view.state[event.key].event_id == event.event_id for event in events)


@pytest.mark.parametrize("version", VERSIONS)
async def test_many_heads_are_merged_by_an_event_of_ours(version: str) -> None:
    large = LargeRoom(room_version(version), 5)
    joins = forked_joins(large, 45)
    async with large_world(large) as world:
        await fork(world, joins)
        room = await world.room()
        assert len(room.view.heads) == 45
        heads: set[EventId] = {head.event_id for head in room.view.heads}
        await world.engine.head_merges.merge(room)
        assert len(room.view.heads) <= limits.HEADS_UNMERGED
        assert await joined(world, joins) == 45
        made = merges(world)
        assert len(made[0].event.prev_events) == limits.HEADS_PER_MERGE
        named = [one for entry in made for one in entry.event.prev_events]
        assert heads <= {*named, *(head.event_id for head in room.view.heads)}
        for entry in made:
            assert (entry.event.sender, entry.event.content) == (ADMIN, {})
            assert len(entry.event.prev_events) <= limits.HEADS_PER_MERGE
            assert not entry.to_federate, "each server would answer with one more head"
        before = len(made)
        await world.engine.head_merges.merge(room)
        assert len(merges(world)) == before


async def test_the_log_tells_which_rooms_are_due() -> None:
    large = LargeRoom(room_version("12"), 5)
    joins = forked_joins(large, limits.HEADS_UNMERGED + 1)
    async with large_world(large) as world:
        due = world.engine.head_merges._due_rooms
        await fork(world, joins[:-1])
        assert not due._rooms
        await fork(world, joins[-1:])
        assert list(due._rooms) == [large.room_id]


@pytest.mark.parametrize("version", VERSIONS)
async def test_where_none_of_us_may_send_the_heads_are_bounded_and_nothing_is_forgotten(
    version: str,
) -> None:
    large = LargeRoom(room_version(version), 5)
    joins = forked_joins(large, limits.HEADS_KEPT + 30)
    async with large_world(large) as world:
        await fork(world, joins)
        room = await world.room()
        room.joined_local.clear()
        await world.engine.head_merges.merge(room)
        assert merges(world) == []
        assert len(room.view.heads) == limits.HEADS_KEPT
        assert await joined(world, joins) == len(joins)


async def test_a_refused_merge_is_given_up() -> None:
    large = LargeRoom(room_version("12"), 5)
    async with large_world(large) as world:
        await fork(world, forked_joins(large, 30))
        room = await world.room()
        room.joined_local = {UserId("@nobody:a")}  # who isn't in the room's state
        await world.engine.head_merges.merge(room)
        assert (len(room.view.heads), merges(world)) == (30, [])
