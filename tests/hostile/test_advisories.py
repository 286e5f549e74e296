"""Each row of the table of attacks has a test that is made in every test run."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.hostile.advisories import ROWS, Attack, Row

TESTS = Path(__file__).resolve().parent.parent
ROWS_MIN = 40
LEFT_OUT = re.compile(r"\b(long|bench|skip|xfail)\b")


@cache
def functions(path: Path) -> dict[str, ast.AsyncFunctionDef | ast.FunctionDef]:
    """A module's functions by name."""
    module = ast.parse(path.read_text())
    kinds = ast.AsyncFunctionDef | ast.FunctionDef
    return {node.name: node for node in module.body if isinstance(node, kinds)}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_attack_is_made(row: Row) -> None:
    path, _, name = row.test.partition("::")
    function = functions(TESTS / path).get(name)
    assert function is not None, f"{path} has no {name}"
    marks = [ast.unparse(decorator) for decorator in function.decorator_list]
    assert not [mark for mark in marks if LEFT_OUT.search(mark.partition("(")[0])]


def test_there_are_rows_of_every_class_and_no_name_stands_twice() -> None:
    assert {row.attack for row in ROWS} == set(Attack)
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert len(names) >= ROWS_MIN
