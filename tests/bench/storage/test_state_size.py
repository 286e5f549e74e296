"""Figures: what a change of state keeps on disk, as a room's changes grow in number.

The sizes are PostgreSQL's own, of tables (with what is stored out of line) and of their indexes.
Each change comes through the writer and the committer, as from a client.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Callable, Mapping

import pytest

from federation.events.ids import RoomId, UserId
from federation.graph.building import EventDraft
from homeserver.storage.database import Connection
from tests.homeserver.engine.engine_world import World, draft, running

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3_600)]
SIZES = [int(size) for size in os.environ.get("BENCH_CHANGES", "1000 10000 100000").split()]
TABLES = ("snapshots", "events", "state_changes", "memberships")
SENT_AT_ONCE = 100


def report(line: str) -> None:
    sys.stdout.write(line + "\n")


def a_member_more(number: int) -> EventDraft:
    """A change of another key each time."""
    user = UserId(f"@member-{number}:hs1")
    return draft("m.room.member", {"membership": "join", "displayname": "M"}, user, sender=user)


def another_topic(number: int) -> EventDraft:
    """A change of one key."""
    return draft("m.room.topic", {"topic": f"Topic {number}"}, "")


async def send(
    world: World, room_id: RoomId, make: Callable[[int], EventDraft], numbers: range
) -> None:
    """Sends changes, some at once, so that they are committed in groups."""
    for start in range(numbers.start, numbers.stop, SENT_AT_ONCE):
        some = range(start, min(numbers.stop, start + SENT_AT_ONCE))
        await asyncio.gather(*(world.engine.writer.send(room_id, make(one)) for one in some))


async def sizes(connection: Connection) -> dict[str, tuple[int, int]]:
    """Bytes of each table and of its indexes."""
    return {
        name: tuple(
            await connection.fetchrow(
                "SELECT pg_table_size($1::regclass), pg_indexes_size($1::regclass)", name
            )
        )
        for name in TABLES
    }


@pytest.mark.parametrize("make", [a_member_more, another_topic])
async def test_bytes_of_a_state_change(
    postgres_url: str, make: Callable[[int], EventDraft]
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        done = 0
        report(f"\nbytes of a change of state, {make.__name__}: tables + indexes")
        async with world.database.connection() as connection:
            empty = await sizes(connection)
        for count in SIZES:
            await send(world, room_id, make, range(done, count))
            done = count
            async with world.database.connection() as connection:
                report_sizes(count, empty, await sizes(connection))


def report_sizes(
    count: int, empty: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]
) -> None:
    """A line of the table: bytes of each change so far."""
    parts = []
    total = 0
    for name in TABLES:
        table, index = (now[name][i] - empty[name][i] for i in range(2))
        total += table + index
        parts.append(f"{name} {table / count:.0f} + {index / count:.0f}")
    of_log = (now["snapshots"][0] - empty["snapshots"][0]) / count / math.log2(count)
    report(
        f"  {count:>6} changes: {total / count:.0f} in all; {', '.join(parts)};"
        f" snapshots' table by log2 of the number: {of_log:.1f}"
    )
