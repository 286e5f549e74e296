"""Runs worlds by their seeds: `python -m tests.simulation.run SEED [SEED ...]`, or `FIRST-LAST`.

A seed gives the same run each time: time jumps, executors run inline, and the hash seed is fixed
(the program starts itself again with PYTHONHASHSEED=0). A failing seed prints the command that
replays it.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.simulation import coverage
from tests.simulation.arrival import check_arrival
from tests.simulation.attacker import Attacker
from tests.simulation.checks import Checks
from tests.simulation.convergence import Convergence
from tests.simulation.hardships import Hardships
from tests.simulation.lies import Lies
from tests.simulation.planted_bugs import PLANTED
from tests.simulation.seeds import parse_seeds, replay_command, seeds_parser, start
from tests.simulation.server import described
from tests.simulation.virtual_time import Stuck, run_virtually
from tests.simulation.workload import Workload
from tests.simulation.world import World

MODULE = "tests.simulation.run"
OPERATIONS = 60
_ORDERS_EVERY = (
    4  # worlds of which the graph is handed in again in other orders: the rest is dearer
)


@dataclass(frozen=True)
class Result:
    """What came of a seed."""

    seed: int
    faults: Sequence[str]
    log: Sequence[str]
    met: Mapping[str, int]

    @property
    def digest(self) -> str:
        """The whole trace, in short: equal for equal runs."""
        return hashlib.sha256("\n".join(self.log).encode()).hexdigest()[:16]


def run_seed(seed: int, operations: int = OPERATIONS) -> Result:
    """Lives one world through, and checks it."""
    world = World.make(seed, operations)
    try:
        run_virtually(_live(world))
    except Stuck as stuck:
        world.faults.append(f"stuck: {stuck}")
    except Exception as error:  # noqa: BLE001 - whatever breaks is a finding
        world.faults.append(described(error))
    return Result(seed, world.faults, world.log, world.met)


async def _live(world: World) -> None:
    checks, workload, hardships = Checks(world), Workload(world), Hardships(world)
    convergence = Convergence(world, workload)
    await workload.begin()
    attacker = Attacker(world)
    Lies(world, attacker).install()
    parts = (workload, hardships, attacker)
    await world.live(lambda: [action for part in parts for action in part.actions()])
    await world.calm_down()
    checks.check_disks()
    await convergence.fill_gaps()
    await convergence.check()
    rooms = checks.check_disks()
    for server in world.servers:
        await server.crash()
    if world.seed % _ORDERS_EVERY == 0 and not world.plan.flood:
        for _ in range(2):
            await check_arrival(world, rooms[0])
    world.met = coverage.count(world, rooms)


def main() -> int:
    """Runs the seeds of the command line; 1 if one failed."""
    parser = seeds_parser(OPERATIONS, PLANTED)
    parser.add_argument("--digests", action="store_true")
    parser.add_argument("--coverage", action="store_true", help="how often what came about")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.plant:
        PLANTED[options.plant][0]()
    started_s, seeds = time.perf_counter(), parse_seeds(options.seeds)
    failed, ran, met = 0, 0, Counter[str]()
    out = sys.stdout.write
    for seed in seeds:
        result = run_seed(seed, options.operations)
        ran += 1
        met.update(result.met)
        if options.trace:
            out("\n".join(result.log) + "\n")
        if options.digests:
            out(f"{seed} {result.digest}\n")
        if result.faults:
            failed += 1
            faults = "\n  ".join(dict.fromkeys(result.faults))
            command = replay_command(MODULE, seed, options.operations)
            out(f"seed {seed} failed: {command}\n  {faults}\n")
            if options.until and options.until in faults:
                break
    if options.coverage:
        names = sorted({*met, *coverage.WANTED})
        out("".join(f"{met[name]:8} {name}\n" for name in names))
    took_s = time.perf_counter() - started_s
    out(f"{ran} seeds, {failed} failed, {took_s / ran:.3f} s each\n")
    return 1 if failed else 0


if __name__ == "__main__":
    start(MODULE, main)
