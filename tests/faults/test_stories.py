"""Stories with faults: whatever breaks, what was acknowledged is everywhere, once and in order."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.conftest import NewPerson
from tests.faults.servers import Cluster, running_cluster
from tests.faults.story import NAMES, STORY_LIMITS, Faults, cast, play
from tests.faults.story_checks import check_all

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("all_up_again"),
    pytest.mark.timeout(900),
]

LONG_SEEDS = 6
LONG_ROUNDS = 25


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(module_folder: Path) -> AsyncIterator[Cluster]:
    """Yield three servers behind links."""
    async with running_cluster(module_folder, 3, linked=True, shorter=STORY_LIMITS) as cluster:
        yield cluster


async def tell(
    cluster: Cluster, new_person: NewPerson, seed: int, rounds: int, *, in_order: bool
) -> None:
    """Play the story of a seed and check its end."""
    rng = random.Random(seed)
    people = {name: await new_person("s", name) for name in NAMES}
    guest, late = await new_person("guest", "hs2"), [await new_person("late", n) for n in NAMES]
    actors = await cast(people, guest, late, rng)
    faults = Faults(cluster, rng)
    kinds = list(faults.all)
    rng.shuffle(kinds)
    chosen = (kinds * (rounds // len(kinds) + 1))[:rounds]
    try:
        await play(actors, faults, chosen, rng)
        await check_all(actors, in_order=in_order)
    except BaseException as error:
        error.add_note(f"The story of seed {seed}: {', '.join(chosen)}")
        raise
    finally:
        for name in NAMES:
            cluster.set_clock(name, 0)


async def test_a_story_with_each_fault_once(cluster: Cluster, new_person: NewPerson) -> None:
    """A short one, of the seed in FAULTS_SEED."""
    await tell(cluster, new_person, int(os.environ.get("FAULTS_SEED", "1")), 9, in_order=False)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 100 + LONG_SEEDS))
async def test_a_long_story(cluster: Cluster, new_person: NewPerson, seed: int) -> None:
    """Each fault several times, beside what the others left."""
    await tell(cluster, new_person, seed, LONG_ROUNDS, in_order=True)
