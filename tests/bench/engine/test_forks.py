"""Figures: an event that comes to a fork in a hot room, as the room grows."""

from __future__ import annotations

import gc
import statistics
import sys
import time

import pytest

from federation.events.room_versions import room_version
from tests.federation.graph.large_room import LEVELS, LargeRoom, fork_of
from tests.homeserver.engine.large_engine_room import large_world, message, stored

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
RUNS = 15


@pytest.mark.parametrize("name", ["11", "12"])
@pytest.mark.parametrize("members", [10, 1_000, 10_000, 100_000])
async def test_events_at_a_fork_as_the_room_grows(name: str, members: int) -> None:
    """Each event is handed in, checked, placed and committed to the store in memory; to place it,
    the states of two heads are resolved, which differ in ten keys and one more."""
    large = LargeRoom(room_version(name), members)
    tables = stored(large)
    one, two = fork_of(large)
    own = large.beside([lambda: large.add("m.two", "", {}, cites=(LEVELS,))])
    async with large_world(large, tables) as world:
        head = (await world.room()).view.heads[0].event_id
        await world.branch([*two, *own], head)
        parent = await world.branch(one, head)
        times = []
        for number in range(RUNS):
            event = message(large, number)
            gc.collect()
            start = time.process_time()
            parent = (await world.accept(event, [parent])).event_id
            times.append(1000 * (time.process_time() - start))
        assert len((await world.room()).view.heads) == 2
    sys.stdout.write(
        f"event at a fork, version {name}, {members} members, 10 conflicted keys:"
        f" {statistics.median(times):.2f} ms of CPU (worst of {RUNS}: {max(times):.2f})\n"
    )
