"""A fuzz of who may see what, held to a model of the specification's table (`model`).

Each batch runs in a process of its own, with a fixed hash seed. A failing seed prints itself and
the command that replays it. The budget is of CPU time, whatever else the machine does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.visibility.planted import PLANTED

ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "tests.visibility.run", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=3_000,
    )


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
    assert ran.returncode == 1, f"\n{ran.stdout}\n{ran.stderr}"
    assert " failed: python -m tests.visibility.run " in ran.stdout
    assert says in ran.stdout


@pytest.mark.long
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("first", range(100, 3_100, 500))
def test_in_thousands_of_rooms_nothing_leaks_and_nothing_is_hidden(first: int) -> None:
    ran = _run(f"{first}-{first + 499}")
    assert ran.returncode == 0, f"\n{ran.stdout}\n{ran.stderr}"
