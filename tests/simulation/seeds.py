"""Programs that run seeds: what they read of a command line, how one is replayed, and how a test
runs them.

A seed gives the same run each time only with a fixed hash seed, so that each program starts itself
again with one, and each test runs it in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def seeds_parser(operations: int, planted: Iterable[str]) -> argparse.ArgumentParser:
    """Reads seeds, and what such programs have in common. `planted`: names of bugs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", nargs="+", help="numbers, or FIRST-LAST")
    parser.add_argument("--operations", type=int, default=operations)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--until", help="stop at a fault that says this")
    parser.add_argument("--plant", choices=sorted(planted), help="a bug to plant first")
    return parser


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """The seeds of a command line."""
    seeds: list[int] = []
    for text in texts:
        first, _, last = text.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def replay_command(module: str, seed: int, operations: int) -> str:
    """What replays a seed."""
    return f"python -m {module} {seed} --operations {operations} --trace"


def start(module: str, main: Callable[[], int]) -> None:
    """Runs a program, in a process with a fixed hash seed."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])
    sys.exit(main())


def run_program(module: str, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, for a test."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def assert_found(ran: subprocess.CompletedProcess[str], module: str, says: str) -> None:
    """A planted bug was found, by the check that says so."""
    assert ran.returncode == 1, f"\n{ran.stdout}\n{ran.stderr}"
    assert f" failed: python -m {module} " in ran.stdout
    assert says in ran.stdout
