"""Runs stories by their seeds: `python -m tests.visibility.run SEED [SEED ...]`, or `FIRST-LAST`.

A seed gives the same run each time (the program starts itself again with PYTHONHASHSEED=0). A
failing seed prints the command that replays it.
"""

from __future__ import annotations

import logging
import sys
import time

from homeserver import limits
from tests.simulation.seeds import parse_seeds, replay_command, seeds_parser, start
from tests.simulation.server import described
from tests.simulation.virtual_time import run_virtually
from tests.visibility.faults import Observation
from tests.visibility.planted import PLANTED
from tests.visibility.server_checks import ServerChecks
from tests.visibility.story import Story
from tests.visibility.user_checks import UserChecks

MODULE = "tests.visibility.run"
OPERATIONS = 30


async def lived(story: Story, operations: int) -> Observation:
    """Lives a story through, and checks it."""
    await story.live(operations)
    observation = await Observation.at(story)
    await UserChecks(observation).check()
    await ServerChecks(observation).check()
    for server in story.servers.values():
        await server.crash()
    observation.faults += [f"BUG {one}" for one in story.bugs]
    return observation


def main() -> int:
    """Runs the seeds of the command line; 1 if one failed."""
    options = seeds_parser(OPERATIONS, PLANTED).parse_args()
    logging.disable(logging.CRITICAL)
    limits.BACKFILL_EVENTS = 3  # so that a gap takes more than one answer
    if options.plant:
        PLANTED[options.plant][0]()
    started_s, out, failed, questions = time.process_time(), sys.stdout.write, 0, 0
    seeds = parse_seeds(options.seeds)
    for seed in seeds:
        story = Story.make(seed)
        faults: list[str]
        try:
            observation = run_virtually(lived(story, options.operations))
        except Exception as error:  # noqa: BLE001 - whatever breaks is a finding
            faults = [f"BUG {described(error)}"]
        else:
            faults = observation.faults
            questions += observation.questions
        if options.trace:
            out("\n".join(story.log) + "\n")
        if faults:
            failed += 1
            text = "\n  ".join(dict.fromkeys(faults))
            command = replay_command(MODULE, seed, options.operations)
            out(f"seed {seed} failed: {command}\n  {text}\n")
            if options.until and options.until in text:
                break
    spent_s = time.process_time() - started_s
    out(f"{len(seeds)} rooms, {questions} questions, {failed} failed, {spent_s:.1f} s of CPU\n")
    return 1 if failed else 0


if __name__ == "__main__":
    start(MODULE, main)
