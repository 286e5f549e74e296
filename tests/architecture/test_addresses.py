"""Tests have addresses: a module's own test file, or the one that the table `addresses` names."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import pytest

from tests.architecture import measure_addresses
from tests.architecture.addresses import (
    BRANCHES_PERCENT_MIN,
    COVERED_BY,
    COVERS,
    LESS_COVERED,
    own_test_file,
)
from tests.architecture.measure_addresses import by_test_file, judge
from tests.architecture.source_tree import SourceModule, parse_module, sources, test_sources

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


def sets_bounds_only(module: SourceModule) -> bool:
    """Say whether a module of `limits` consists of nothing but constants."""
    is_limits = "limits" in module.name.split(".")[1:]
    return is_limits and all(
        isinstance(node, DEFINITIONS)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in module.tree.body
    )


def needs_tests(module: SourceModule) -> bool:
    """Say whether a module must have a test file."""
    return not module.path.endswith("__init__.py") and not sets_bounds_only(module)


def address_faults(
    modules: Sequence[SourceModule], tests: AbstractSet[str], table: Mapping[str, str]
) -> Iterator[str]:
    """Yield each module without an address, and each entry of the table that is out of date."""
    known = {module.path for module in modules if needs_tests(module)}
    for path in sorted(known - set(table)):
        if own_test_file(path) not in tests:
            yield f"{path} has neither {own_test_file(path)} nor a line in addresses.COVERS"
    for path, test in table.items():
        if path not in known:
            yield f"{path} is gone, or needs no test: take it out of addresses.COVERS"
        elif own_test_file(path) in tests:
            yield f"{path} has a test file of its own: take it out of addresses.COVERS"
        elif test not in tests:
            yield f"{test}, which is to cover {path}, is gone"


def test_each_module_has_a_test_file() -> None:
    """Who changes a module finds the test that tells them what they broke."""
    tests = {module.path for module in test_sources() if "/test_" in module.path}
    faults = list(address_faults(sources(), tests, COVERED_BY))
    assert not faults, "\n" + "\n".join(faults)
    assert len(COVERED_BY) == sum(map(len, COVERS.values())), "a module stands there twice"


def test_exceptions_from_the_bound_are_exceptions() -> None:
    """Of modules that there are, and each below the bound."""
    paths = {module.path for module in sources()}
    assert set(LESS_COVERED) <= paths
    assert all(0 < percent < BRANCHES_PERCENT_MIN for percent in LESS_COVERED.values())


@pytest.mark.parametrize(
    ("tests", "table", "fault"),
    [
        (set(), {}, "a/b.py has neither tests/a/test_b.py nor a line in"),
        (set(), {"a/b.py": "tests/test_c.py"}, "tests/test_c.py, which is to cover a/b.py, is"),
        ({"tests/a/test_b.py"}, {"a/b.py": "tests/a/test_b.py"}, "a/b.py has a test file of"),
        ({"tests/a/test_b.py"}, {"a/gone.py": "tests/a/test_b.py"}, "a/gone.py is gone"),
        ({"tests/a/test_b.py"}, {"a/limits.py": "tests/a/test_b.py"}, "a/limits.py is gone, or"),
    ],
)
def test_a_missing_or_stale_address_is_found(
    tests: set[str], table: dict[str, str], fault: str
) -> None:
    """The check can fail, in each of its ways."""
    modules = [parse_module("a.b", "def f(): ...\n"), parse_module("a.limits", "X = 1\n")]
    [found] = address_faults(modules, tests, table)
    assert found.startswith(fault)


def test_right_addresses_are_no_fault() -> None:
    """Either kind; packages and bounds need none."""
    modules = [
        parse_module("a.b", "def f(): ...\n"),
        parse_module("a.c", "def f(): ...\n"),
        parse_module("a", "from a.b import f\n", "a/__init__.py"),
        parse_module("a.limits", '"""Bounds."""\nfrom typing import Final\nX: Final = 1\n'),
        parse_module("a.limits.rooms", "X = 1\n"),
    ]
    tests = {"tests/a/test_b.py", "tests/test_all.py"}
    assert not list(address_faults(modules, tests, {"a/c.py": "tests/test_all.py"}))


def test_bounds_with_code_in_them_need_tests() -> None:
    """And what merely has the word in its name isn't a module of bounds."""
    assert needs_tests(parse_module("a.limits", "def bound() -> int: ...\n"))
    assert needs_tests(parse_module("a.limits", "if True:\n    X = 1\n"))
    assert needs_tests(parse_module("a.rate_limits", "X = 1\n"))


def test_a_figure_is_held_to_the_bound_or_to_the_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception may only grow, and ends where the bound is reached."""
    monkeypatch.setattr(measure_addresses, "LESS_COVERED", {"a/b.py": 40})
    least = BRANCHES_PERCENT_MIN
    assert judge("a/c.py", least) is None
    assert judge("a/c.py", least - 1) == f"is run to {least - 1} %, at least {least} % is wanted"
    assert judge("a/b.py", 40) is None
    assert judge("a/b.py", 39) == "is run to 39 %, at least 40 % is wanted"
    assert judge("a/b.py", least) == f"is run to {least} %: take it out of LESS_COVERED"


def test_modules_of_one_test_file_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the file of the table, or with their own."""
    table = {"a/b.py": "tests/test_x.py", "a/c.py": "tests/test_x.py"}
    monkeypatch.setattr(measure_addresses, "COVERED_BY", table)
    assert by_test_file(["a/b.py", "a/d.py", "a/c.py"]) == {
        "tests/test_x.py": ["a/b.py", "a/c.py"],
        "tests/a/test_d.py": ["a/d.py"],
    }


@pytest.mark.long
def test_a_test_file_is_measured_alone() -> None:
    """A module that it doesn't touch is run to nothing."""
    figures = measure_addresses.run_alone(
        "tests/e2ee/machine/test_alarms.py", ["e2ee/machine/alarms.py", "lab/cli.py"]
    )
    assert figures == {"e2ee/machine/alarms.py": 100, "lab/cli.py": 0}
