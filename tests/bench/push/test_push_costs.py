"""Figures: what push costs for a message into a room with 2,000 local members, and the counts of an
account of 5,000 rooms.

CPU is that of this process and of the database's sessions; the clock of the wall says what a client
waits.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from local_postgres import EmbeddedCluster
from tests.homeserver.room_world import ALICE, HERE, World
from tests.homeserver.sync_world import SyncWorld, sync_world

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1_800)]
MEMBERS, MESSAGES, ROOMS = 2_000, 250, 5_000
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


async def database_cpu_s(world: World) -> float:
    """The CPU that the database's sessions of this test have taken."""
    rows = await world.database.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    )
    ticks = 0
    for (pid,) in rows:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * _TICK_S


async def with_rules(world: World, user: UserId, path: str, body: dict[str, Any]) -> None:
    """Sets a rule of a user."""
    assert (await world.call(user, "PUT", f"/pushrules/global/{path}", body)).status == 200


async def full_room(syncs: SyncWorld, *, is_mixed: bool) -> RoomId:
    """A room with 2,000 members; mixed ones have rules: 300 silence the room, 100 have a keyword of
    their own, 20 are told of their name."""
    world = syncs.world
    members = [UserId(f"@member{number}:{HERE}") for number in range(MEMBERS - 1)]
    room_id = await world.room(preset="public_chat")
    for member in members:
        assert (await world.join(member, room_id)).status == 200
    if is_mixed:
        name = {"actions": ["notify"], "conditions": [{"kind": "contains_display_name"}]}
        for member in members[:300]:
            await with_rules(world, member, f"room/{quote(room_id)}", {"actions": []})
        for number, member in enumerate(members[300:400]):
            keyword = {"pattern": f"word{number}", "actions": ["notify"]}
            await with_rules(world, member, "content/word", keyword)
        for member in members[400:420]:
            await with_rules(world, member, "override/name", name)
    return room_id


@pytest.mark.parametrize("is_mixed", [False, True])
async def test_a_message_into_2000_members(
    postgres_cluster: EmbeddedCluster, is_mixed: bool
) -> None:
    url = await postgres_cluster.ensure_database(f"bench_push_{is_mixed}".lower())
    async with sync_world(url) as syncs:
        world, counts = syncs.world, syncs.world.push.counts
        room_id = await full_room(syncs, is_mixed=is_mixed)
        await counts.settled()
        assert world.counting is not None
        world.counting.cancel()
        own = database = 0.0
        for number in range(MESSAGES):
            await syncs.say(ALICE, room_id, f"message number {number} of an ordinary length")
            before = await database_cpu_s(world)
            started = time.process_time()
            assert await counts.work_once()
            if number == MESSAGES - 1:
                await counts.stored(world.committer.position)
            own += time.process_time() - started
            database += await database_cpu_s(world) - before
        rules = "420 own rules" if is_mixed else "default rules"
        sys.stdout.write(
            f"push of a message to {MEMBERS} local members, {rules}: own CPU"
            f" {own / MESSAGES * 1000:.2f} ms, database {database / MESSAGES * 1000:.2f} ms; the"
            f" counts of all members are written every {limits.PUSH_EVENTS_UNSUMMED} messages\n"
        )


async def test_the_counts_of_5000_rooms(postgres_cluster: EmbeddedCluster) -> None:
    url = await postgres_cluster.ensure_database("bench_push_rooms")
    async with sync_world(url) as syncs:
        world = syncs.world
        rooms = [RoomId(f"!room{number}:{HERE}") for number in range(ROOMS)]
        for unread in (ROOMS // 50, ROOMS):
            await world.database.execute("DELETE FROM push_counts")
            await world.database.execute(
                "INSERT INTO push_counts SELECT r, $1, 'main', 1 + n % 30, n % 2"
                " FROM unnest($2::text[]) WITH ORDINALITY AS r (r, n)",
                ALICE,
                rooms[:unread],
            )
            await world.database.execute("ANALYZE push_counts")
            waits, cpu = [], time.process_time()
            for _ in range(20):
                world.push.counts._states._users.clear()
                started = time.perf_counter()
                counts = await world.push.counts.of(ALICE, 0)
                found = sum(bool(counts[room_id]) for room_id in rooms)
                waits.append((time.perf_counter() - started) * 1000)
                assert found == unread
            cpu = (time.process_time() - cpu) * 1000 / len(waits)
            waits.sort()
            sys.stdout.write(
                f"counts of {ROOMS} rooms, {unread} of them unread, none in memory: median"
                f" {waits[len(waits) // 2]:.1f} ms, slowest of {len(waits)} {waits[-1]:.1f} ms, own"
                f" CPU {cpu:.1f} ms\n"
            )
