"""A fuzz of who may see what, held to a model of the specification's table (`model`).

Each batch runs in a process of its own, with a fixed hash seed. A failing seed prints itself and
the command that replays it. The budget is of CPU time, whatever else the machine does.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.simulation.seeds import assert_found, run_program
from tests.visibility.planted import PLANTED
from tests.visibility.run import MODULE


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(MODULE, *arguments, timeout_s=3_000)


@pytest.mark.timeout(900)
def test_in_a_hundred_rooms_nothing_leaks_and_nothing_is_hidden() -> None:
    ran = _run("0-99")
    assert ran.returncode == 0, f"\n{ran.stdout}\n{ran.stderr}"
    asked = int(ran.stdout.split(" rooms, ")[1].split(" questions")[0])
    assert asked > 30_000


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", sorted(PLANTED))
def test_each_planted_bug_is_found(bug: str) -> None:
    _, says = PLANTED[bug]
    ran = _run("0-59", "--plant", bug, "--until", says)
    assert_found(ran, MODULE, says)


@pytest.mark.long
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("first", range(100, 3_100, 500))
def test_in_thousands_of_rooms_nothing_leaks_and_nothing_is_hidden(first: int) -> None:
    ran = _run(f"{first}-{first + 499}")
    assert ran.returncode == 0, f"\n{ran.stdout}\n{ran.stderr}"
