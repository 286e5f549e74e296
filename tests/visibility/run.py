"""Runs stories by their seeds: `python -m tests.visibility.run SEED [SEED ...]`, or `FIRST-LAST`.

A seed gives the same run each time (the program starts itself again with PYTHONHASHSEED=0). A
failing seed prints the command that replays it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence

from homeserver import limits
from tests.simulation.server import described
from tests.simulation.virtual_time import run_virtually
from tests.visibility.faults import Look
from tests.visibility.planted import PLANTED
from tests.visibility.server_checks import ServerChecks
from tests.visibility.story import Story
from tests.visibility.user_checks import UserChecks

OPERATIONS = 30


async def lived(story: Story, operations: int) -> Look:
    """Lives a story through, and checks it."""
    await story.live(operations)
    look = await Look.at(story)
    await UserChecks(look).check()
    await ServerChecks(look).check()
    for server in story.servers.values():
        await server.crash()
    look.faults += [f"BUG {one}" for one in story.bugs]
    return look


def command(seed: int, operations: int) -> str:
    """What replays a seed."""
    return f"python -m tests.visibility.run {seed} --operations {operations} --trace"


def _seeds(texts: Sequence[str]) -> list[int]:
    seeds: list[int] = []
    for text in texts:
        first, _, last = text.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def main() -> int:
    """Runs the seeds of the command line; 1 if one failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", nargs="+")
    parser.add_argument("--operations", type=int, default=OPERATIONS)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--until", help="stop at a fault that says this")
    parser.add_argument("--plant", choices=sorted(PLANTED), help="a bug to plant first")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    limits.BACKFILL_EVENTS = 3  # so that a gap takes more than one answer
    if options.plant:
        PLANTED[options.plant][0]()
    started_s, out, failed, questions = time.process_time(), sys.stdout.write, 0, 0
    seeds = _seeds(options.seeds)
    for seed in seeds:
        story = Story.make(seed)
        faults: list[str]
        try:
            look = run_virtually(lived(story, options.operations))
        except Exception as error:  # noqa: BLE001 - whatever breaks is a finding
            faults = [f"BUG {described(error)}"]
        else:
            faults = look.faults
            questions += look.questions
        if options.trace:
            out("\n".join(story.log) + "\n")
        if faults:
            failed += 1
            text = "\n  ".join(dict.fromkeys(faults))
            out(f"seed {seed} failed: {command(seed, options.operations)}\n  {text}\n")
            if options.until and options.until in text:
                break
    spent_s = time.process_time() - started_s
    out(f"{len(seeds)} rooms, {questions} questions, {failed} failed, {spent_s:.1f} s of CPU\n")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.visibility.run", *sys.argv[1:]])
    sys.exit(main())
