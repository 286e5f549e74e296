"""Seeded worlds of several servers. A failing seed prints the command that replays it.

Each batch runs in a process of its own, with a fixed hash seed (see `tests.simulation.run`).
"""

from __future__ import annotations

import subprocess

import pytest

from tests.simulation.coverage import missing
from tests.simulation.planted_bugs import PLANTED
from tests.simulation.run import MODULE
from tests.simulation.seeds import assert_found, run_program


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(MODULE, *arguments, timeout_s=900)


@pytest.fixture(scope="module")
def ordinary() -> subprocess.CompletedProcess[str]:
    """The worlds that are lived through on every run."""
    return _run("0-199", "--coverage")


def test_seeded_worlds_keep_their_promises(ordinary: subprocess.CompletedProcess[str]) -> None:
    assert ordinary.returncode == 0, f"\n{ordinary.stdout}\n{ordinary.stderr}"


def test_each_hardship_strikes_and_each_verdict_is_given(
    ordinary: subprocess.CompletedProcess[str],
) -> None:
    lines = (line.strip().partition(" ") for line in ordinary.stdout.splitlines())
    met = {name: int(times) for times, _, name in lines if times.isdigit()}
    assert missing(met) == []


def test_a_seed_gives_the_same_run_each_time() -> None:
    one, other = (_run("0-9", "--digests").stdout.splitlines()[:10] for _ in range(2))
    assert one == other
    assert len({line.split()[1] for line in one}) == 10


@pytest.mark.parametrize("bug", sorted(PLANTED))
def test_each_planted_bug_is_found_by_its_check(bug: str) -> None:
    _, says = PLANTED[bug]
    ran = _run("0-59", "--plant", bug, "--until", says)
    assert_found(ran, MODULE, says)


@pytest.mark.long
@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("first", range(200, 3_200, 500))
def test_thousands_of_seeded_worlds_keep_their_promises(first: int) -> None:
    ran = _run(f"{first}-{first + 499}")
    assert ran.returncode == 0, f"\n{ran.stdout}\n{ran.stderr}"
