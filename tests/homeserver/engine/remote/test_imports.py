"""What is stored in bulk gets its row numbers after what it cites."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federation.events.event import Event
from federation.events.room_versions import room_version
from homeserver import limits
from tests.federation.graph.large_room import LEVELS, LargeRoom, member_of
from tests.homeserver.engine.large_engine_room import (
    ROOM_NID,
    LargeWorld,
    large_world,
    stored,
    with_parents,
)


def citing_backwards(large: LargeRoom) -> list[Event]:
    """Events that cite each other, given with the citing ones first."""
    user = member_of(1)
    made = large.beside(
        [
            lambda: large.levels({user: 60}),
            lambda: large.member(user, "join"),
            lambda: large.add("m.x", "", {}, cites=(LEVELS,), sender=user),
        ]
    )
    return [with_parents(event, event.prev_events) for event in reversed(made)]


def numbered_in_order(world: LargeWorld, events: list[Event]) -> bool:
    row_ids = [world.tables.events[event.event_id]["event_row_id"] for event in reversed(events)]
    return row_ids == sorted(row_ids)


async def test_outliers_are_numbered_after_what_they_cite() -> None:
    large = LargeRoom(room_version("12"), 5)
    async with large_world(large) as world:
        room = await world.room()
        events = citing_backwards(large)
        await world.engine.remote_event_writer.store_outliers(events, ())
        assert numbered_in_order(world, events)
        assert all(event.event_id in room.citations for event in events)


async def test_fetched_history_is_numbered_after_what_it_cites() -> None:
    large = LargeRoom(room_version("12"), 5)
    tables = stored(large)
    events = citing_backwards(large)
    tables.gaps[ROOM_NID, events[-1].event_id] = (1, 0)
    async with large_world(large, tables) as world:
        room = await world.room()
        state = {key: ref.event_id for key, ref in room.view.state.items()}
        await world.engine.remote_event_writer.store_backfill(events, {events[0].event_id: state})
        assert numbered_in_order(world, events)
        assert not any(world.tables.events[event.event_id]["outlier"] for event in events)
        assert all(event.event_id in room.citations for event in events)


@pytest.mark.parametrize("more", [0, 1])
async def test_a_large_state_is_sorted_beside_the_loop(
    monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    large = LargeRoom(room_version("12"), 5)
    in_threads: list[int] = []

    async def to_thread(work: Callable[[list[Event]], list[Event]], events: list[Event]) -> object:
        in_threads.append(len(events))
        return work(events)

    async with large_world(large) as world:
        events = citing_backwards(large)
        monkeypatch.setattr(limits, "ORDERED_AT_ONCE", len(events) - more)
        monkeypatch.setattr("homeserver.engine.remote.imports.asyncio.to_thread", to_thread)
        await world.engine.remote_event_writer.store_outliers(events, ())
        assert numbered_in_order(world, events)
    assert in_threads == [len(events)] * more
