"""Figures: searches in 5,000 messages of a room, and what it costs to index them.

The clock of the wall says what a client waits; the server's own CPU is beside it, the database's
is the rest.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import pytest

from tests.homeserver.room_world import ALICE
from tests.homeserver.services.timeline.search.searches import search
from tests.homeserver.sync_world import SyncWorld, sync_world

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1_800)]
MESSAGES, SEARCHES = 5_000, 100
WORDS = [
    "".join(random.Random(number).choices("abdeiklmnorstu", k=random.Random(-number).randint(3, 9)))
    for number in range(2_000)
]


async def said(syncs: SyncWorld) -> None:
    chance = random.Random(1)
    room_id = await syncs.world.room()
    for number in range(MESSAGES):
        # Zipf's law, roughly: few words are common
        text = " ".join(WORDS[int(2_000 ** chance.random()) - 1] for _ in range(12))
        await syncs.say(ALICE, room_id, f"{text} {number}")


async def test_searches(postgres_url: str) -> None:
    async with sync_world(postgres_url) as syncs:
        await said(syncs)
        cpu, began = time.process_time(), time.perf_counter()
        await search(syncs.world, "x")
        cpu, wait = time.process_time() - cpu, time.perf_counter() - began
        sys.stdout.write(
            f"indexing {MESSAGES} messages: {wait / MESSAGES * 1e6:.0f} us each,"
            f" own CPU {cpu / MESSAGES * 1e6:.0f} us\n"
        )
        await syncs.world.database.execute("ANALYZE")
        kinds: dict[str, tuple[list[str], dict[str, Any]]] = {
            "a rare word": (WORDS[-SEARCHES:], {}),
            "a common word": (WORDS[:1] * SEARCHES, {}),
            "two words": ([f"{one} {WORDS[1]}" for one in WORDS[50 : 50 + SEARCHES]], {}),
            "a common word by rank": (WORDS[:1] * SEARCHES, {"order_by": "rank"}),
            "with context": (WORDS[:1] * SEARCHES, {"event_context": {}}),
        }
        for kind, (terms, wanted) in kinds.items():
            waits, cpu = [], time.process_time()
            for term in terms:
                began = time.perf_counter()
                await search(syncs.world, term, **wanted)
                waits.append((time.perf_counter() - began) * 1000)
            cpu = (time.process_time() - cpu) * 1000 / len(terms)
            waits.sort()
            sys.stdout.write(
                f"{kind}: median {waits[len(waits) // 2]:.2f} ms, own CPU {cpu:.2f} ms\n"
            )
