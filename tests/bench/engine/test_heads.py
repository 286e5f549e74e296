"""Figures: many forward extremities that differ in state, and a long side branch."""

from __future__ import annotations

import gc
import statistics
import sys
import time

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, UserId
from federation.events.room_versions import room_version
from tests.federation.graph.large_room import LEVELS, LargeRoom
from tests.homeserver.engine.large_engine_room import LargeWorld, large_world

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]


def _snapshot_entries(world: LargeWorld) -> int:
    return sum(len(one["added"]) + len(one["removed"]) for one in world.tables.snapshots.values())


@pytest.mark.parametrize("name", ["10", "12"])
async def test_forked_joins_that_nobody_merges(name: str) -> None:
    """500 joins, all after the same event."""
    large = LargeRoom(room_version(name), 20)
    users = [UserId(f"@new{number}:other") for number in range(500)]
    joins = large.beside([lambda user=user: large.member(user, "join") for user in users])
    async with large_world(large) as world:
        parent = (await world.room()).view.heads[0].event_id
        times: list[float] = []
        for join in joins:
            gc.collect()
            start = time.process_time()
            await world.accept(join, [parent])
            times.append(1000 * (time.process_time() - start))
        heads = len((await world.room()).view.heads)
        entries = _snapshot_entries(world)
    _write(f"forked joins, version {name}: {heads} heads, {entries} entries in snapshots;", times)


@pytest.mark.parametrize("name", ["10", "12"])
@pytest.mark.parametrize("kind", ["topics", "members", "levels"])
async def test_a_side_branch_of_state(name: str, kind: str) -> None:
    """250 state events, each after the one before, beside a head with one own change."""
    large = LargeRoom(room_version(name), 300)
    own: dict[str, int] = {} if large.version.creators_are_privileged else {"@admin:a": 100}

    def one(number: int) -> Event:
        if kind == "topics":
            return large.add("m.room.topic", "", {"topic": str(number)}, cites=(LEVELS,))
        if kind == "members":
            return large.member(UserId(f"@new{number}:other"), "join")
        users = {**own, f"@new{number}:other": 1}
        return large.levels({UserId(user): level for user, level in users.items()})

    side = large.beside([lambda number=number: one(number) for number in range(250)])
    main = large.beside([lambda: large.add("m.room.topic", "", {"topic": "m"}, cites=(LEVELS,))])
    async with large_world(large) as world:
        parent = (await world.room()).view.heads[0].event_id
        await world.accept(main[0], [parent])
        times: list[float] = []
        for event in side:
            gc.collect()
            start = time.process_time()
            parent = EventId((await world.accept(event, [parent])).event_id)
            times.append(1000 * (time.process_time() - start))
    _write(f"side branch of {kind}, version {name}:", times)


def _write(what: str, times: list[float]) -> None:
    first, last = statistics.median(times[5:25]), statistics.median(times[-20:])
    sys.stdout.write(
        f"{what} {sum(times) / 1000:.2f} s of CPU for {len(times)}; events 5 to 25"
        f" {first:.2f} ms each, the last {last:.2f} ms: {last / first:.1f} times\n"
    )
