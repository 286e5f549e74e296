"""Seeded worlds of several servers. A failing seed prints the command that replays it.

Each batch runs in a process of its own, with a fixed hash seed (see `tests.simulation.run`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation.run", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_seeded_worlds_keep_their_promises(first: int) -> None:
    ran = _run(f"{first}-{first + 49}")
    assert ran.returncode == 0, f"\n{ran.stdout}\n{ran.stderr}"


def test_a_seed_gives_the_same_run_each_time() -> None:
    one, other = (_run("0-9", "--digests").stdout.splitlines()[:10] for _ in range(2))
    assert one == other
    assert len({line.split()[1] for line in one}) == 10


@pytest.mark.long
@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("first", range(200, 3_200, 500))
def test_thousands_of_seeded_worlds_keep_their_promises(first: int) -> None:
    ran = _run(f"{first}-{first + 499}")
    assert ran.returncode == 0, f"\n{ran.stdout}\n{ran.stderr}"
