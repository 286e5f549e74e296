"""The README's table of the specification's operations that aren't there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests.spec.spec_files import shape

_README = Path(__file__).parents[2] / "README.md"
_HEADING = "## Operations that aren't there"
_OPERATION = re.compile(r"`([A-Z]+) (/[^` ]*)`")


def missing_operations() -> Mapping[tuple[str, str], str]:
    """Returns the reason of each missing operation, by method and path with nameless parameters."""
    _, heading, rest = _README.read_text().partition(f"{_HEADING}\n")
    assert heading, "the README has no table of missing operations"
    rows = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        _, operations, reason, _ = row.split("|")
        for method, path in _OPERATION.findall(operations):
            assert (method, shape(path)) not in found, f"{method} {path} is there twice"
            found[method, shape(path)] = reason.strip()
    return found
