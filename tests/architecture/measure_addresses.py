"""Measures how much of a module the test file runs that `addresses` names for it, alone.

    python -m tests.architecture.measure_addresses [MODULE…]

Without modules: all of the table. A module is given by its path; one with a test file of its own
can be given too. Ends with status 1 where a module is run less than the table says. The figure is
that of `coverage report` with branches: statements and branches together, in whole percent,
rounded down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.architecture.addresses import (
    BRANCHES_PERCENT_MIN,
    COVERED_BY,
    LESS_COVERED,
    own_test_file,
)
from tests.architecture.source_tree import ROOT

TEST_TIMEOUT_S = 1200
DESELECTED = "not long and not bench"


def by_test_file(modules: Sequence[str]) -> dict[str, list[str]]:
    """Return for each test file the modules to measure with it."""
    found: dict[str, list[str]] = {}
    for module in modules:
        found.setdefault(COVERED_BY.get(module) or own_test_file(module), []).append(module)
    return found


def run_alone(test: str, modules: Sequence[str]) -> Mapping[str, int]:
    """Run a test file by itself; return the percentage that it runs of each module.

    Raises `subprocess.CalledProcessError` where a test of it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder, "data"), Path(folder, "report.json")
        coverage = [sys.executable, "-m", "coverage"]
        options = [f"--rcfile={os.devnull}", f"--include={','.join(modules)}"]
        environment = {**os.environ, "COVERAGE_FILE": str(data)}
        chosen = ["-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
        for command, must_succeed in (
            ([*coverage, "run", "--branch", *options, *chosen, "-m", DESELECTED, test], True),
            ([*coverage, "json", "-q", *options, "-o", str(report)], False),  # fails without data
        ):
            subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                timeout=TEST_TIMEOUT_S,
                check=must_succeed,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        files = json.loads(report.read_text())["files"] if report.exists() else {}
    return {
        module: int(files[module]["summary"]["percent_covered"]) if module in files else 0
        for module in modules
    }


def judge(module: str, percent: int) -> str | None:
    """Return what is wrong with a module's figure, or None."""
    least = LESS_COVERED.get(module, BRANCHES_PERCENT_MIN)
    if percent < least:
        return f"is run to {percent} %, at least {least} % is wanted"
    if module in LESS_COVERED and percent >= BRANCHES_PERCENT_MIN:
        return f"is run to {percent} %: take it out of LESS_COVERED"
    return None


def measure(modules: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield (module, what was found, whether that is right) as each test file has run."""
    for test, its_modules in by_test_file(modules).items():
        try:
            figures = run_alone(test, its_modules)
        except subprocess.CalledProcessError as failed:
            for module in its_modules:
                yield module, f"{test} fails alone:\n{failed.stdout}", False
            continue
        for module, percent in figures.items():
            fault = judge(module, percent)
            yield module, fault or f"{percent} % by {test}", fault is None


def main(arguments: Sequence[str]) -> int:
    """Measure the modules given, or the table's, and say each figure; return the exit status."""
    are_right = True
    for module, found, is_right in measure(arguments or sorted(COVERED_BY)):
        sys.stdout.write(f"{module}: {found}\n")
        sys.stdout.flush()
        are_right = are_right and is_right
    return 0 if are_right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
