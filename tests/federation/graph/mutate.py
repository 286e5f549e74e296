"""Mutation testing of events, rules and resolution: are the tests able to notice a wrong rule?

    python -m tests.federation.graph.mutate [MODULE ...] [--seconds N] [--skip N]

For each mutant a child process imports the changed module under its own name and runs the tests
that stand for it, stopping at the first failure. A mutant that passes them all survives; it is
printed with its line, to be looked at. Not collected by pytest; takes minutes.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.util
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import islice
from pathlib import Path
from types import CodeType, ModuleType

import asyncpg  # noqa: F401 - as the four below: imported once, before the children
import canonicaljson  # noqa: F401
import hypothesis
import nacl.bindings  # noqa: F401
import pytest
import pytest_asyncio  # noqa: F401

import local_postgres  # noqa: F401

FEDERATION_TESTS = Path(__file__).parents[1]
FEDERATION = FEDERATION_TESTS.parents[1] / "federation"
AUTH = ["test_auth_rules.py", "test_auth_membership.py", "test_auth_power_levels.py"]
FORMAT = ["test_event.py", "test_event_limits.py", "test_first_versions.py"]
ORACLE = ["test_rule_matrix.py", "test_auth_oracle.py"]
RESOLUTION = ["test_state_resolution.py", "test_state_resolution_v1.py", "test_resolution_cost.py"]
TESTS = {
    "auth_rules": [*AUTH, "test_old_versions.py", *ORACLE],
    "auth_membership": [AUTH[1], AUTH[0], "test_old_versions.py", *ORACLE],
    "auth_power_levels": [AUTH[2], *ORACLE],
    "power_levels": ["test_power_levels.py", *AUTH, *ORACLE],
    "auth_state": [*AUTH, "test_admission.py", *ORACLE],
    "rule_numbers": ["test_rule_matrix.py", "test_explain.py"],
    "admission": ["test_admission.py"],
    "policy_servers": ["test_policy_servers.py", "test_admission.py"],
    "building": ["test_building.py", "test_first_versions.py"],
    "redaction_rules": ["test_redaction.py", "test_hashes.py"],
    "event": FORMAT,
    "hashes": ["test_hashes.py", *FORMAT],
    "ids": ["test_ids.py", *FORMAT],
    "signatures": ["test_signatures.py", "test_admission.py", "test_first_versions.py"],
    "signing": ["test_signing.py"],
    "canonical_json": ["test_canonical_json.py"],
    "deep_json": ["test_canonical_json.py"],
    "room_versions": ["test_room_versions.py", *FORMAT, *ORACLE],
    "state_resolution": RESOLUTION,
    "state_resolution_v1": [RESOLUTION[1], RESOLUTION[0]],
    "conflicts": RESOLUTION,
    "chains": ["test_chains.py", "test_auth_chains.py"],
    "auth_chains": ["test_auth_chains.py"],
    "mainline": ["test_mainline.py"],
}
CPU_S_MAX = 40  # of one mutant; the tests take a third of it
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def mutated(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the replacements of a node."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            changed = copy.deepcopy(node)
            changed.ops = [COMPARISONS[type(op)]()]
            yield changed
        case ast.BoolOp(op=op):
            changed_bool = copy.deepcopy(node)
            changed_bool.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield changed_bool
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() as value) if value:
            yield ast.Constant("x" + value)
        case ast.If(test=test):
            for truth in (True, False):
                changed_if = copy.deepcopy(node)
                changed_if.test = ast.copy_location(ast.Constant(truth), test)
                yield changed_if
        case ast.Return(value=value) if value is not None and not is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Continue() | ast.Break():
            yield ast.Pass()


def is_none(node: ast.expr) -> bool:
    """Returns whether the node is the constant None."""
    return isinstance(node, ast.Constant) and node.value is None


def is_skipped(node: ast.AST) -> bool:
    """Docstrings, texts for people, annotations and exports: no test should hold them."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.JoinedStr() | ast.ImportFrom() | ast.Assert():
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]) | ast.AnnAssign(value=None):
            return True
        case ast.Call(func=ast.Name(id="AuthFailure" | "NewType")):
            return True
        case ast.Call(func=ast.Name(id=name)) if name.startswith(("Invalid", "EventToo", "NotC")):
            return True
        case ast.Call(func=ast.Name(id="SignatureInvalid" | "UnknownRoomVersion" | "ValueError")):
            return True
    return False


def sites(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Yields each place that holds a node which may be replaced: parent, field, index, node."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, ast.AST) or is_skipped(child):
                continue
            yield tree, name, index if isinstance(value, list) else None, child
            yield from sites(child)


def mutants(source: str) -> Iterator[tuple[int, str, CodeType]]:
    """Yields every mutant of a module: the line, what was changed, its code."""
    tree = ast.parse(source)
    for parent, name, index, node in list(sites(tree)):
        for new in mutated(node):
            ast.copy_location(new, node)
            put(parent, name, index, new)
            ast.fix_missing_locations(tree)
            told = f"{first_line(node)}  ->  {first_line(new)}"
            yield getattr(node, "lineno", 0), told, compile(tree, "<mutant>", "exec")
            put(parent, name, index, node)


def first_line(node: ast.AST) -> str:
    """Returns the first line of a node's source."""
    return ast.unparse(node).splitlines()[0][:100]


def put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    """Puts a node in its place."""
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


class Mutant(MetaPathFinder, Loader):
    """Imports one module from changed code."""

    def __init__(self, name: str, code: CodeType) -> None:
        self._name = name
        self._code = code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Ours, if it is the changed module."""
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the changed code."""
        exec(self._code, module.__dict__)  # noqa: S102 - that is what a mutant is for


def source_of(name: str) -> Path:
    """Returns the file of a module, of `events` or `graph`."""
    (found,) = FEDERATION.glob(f"[eg]*/**/{name}.py")
    return found


def survives(name: str, code: CodeType) -> bool:
    """Returns whether a mutant passes the tests of its module, run in a child process."""
    path = source_of(name).relative_to(FEDERATION.parent)
    module = ".".join(path.with_suffix("").parts)
    assert module not in sys.modules, "what is imported already isn't replaced"
    files = [
        str(found) for file in TESTS[name] for found in FEDERATION_TESTS.glob(f"[eg]*/**/{file}")
    ]
    assert len(files) == len(TESTS[name]), "a test file of the table isn't there, or is there twice"
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 0
    # A mutant may loop for ever, and hypothesis tries again what a time limit ended.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.meta_path.insert(0, Mutant(module, code))
    # What was imported before the fork can't be rewritten, which pytest would warn of.
    quiet_options = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
    quiet_options += ["-p", "no:xdist"]
    options = ["-x", "-q", "-m", "not long and not bench", "--timeout=60", *quiet_options, *files]
    status = 1
    try:
        status = int(pytest.main(options))
    finally:
        os._exit(status)


def main(arguments: Sequence[str]) -> None:
    """Runs the mutants of some modules, in turn, for a bounded time."""
    parser = argparse.ArgumentParser(description="Mutation testing of events and graph")
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--seconds", type=float, default=600.0, help="for each module")
    parser.add_argument("--skip", type=int, default=0, help="so many mutants of each module")
    options = parser.parse_args(arguments)
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # one failure is enough
    hypothesis.settings.register_profile(
        "mutants", max_examples=40, derandomize=True, phases=phases
    )
    hypothesis.settings.load_profile("mutants")
    for name in options.modules:
        run_module(name, options.seconds, options.skip)


def run_module(name: str, seconds: float, skip: int) -> None:
    """Runs the mutants of one module and says which survive."""
    started, count, survivors = time.monotonic(), 0, 0
    source = source_of(name).read_text()
    assert survives(name, compile(source, name, "exec")), "the tests pass as things are"
    for line, told, code in islice(mutants(source), skip, None):
        if time.monotonic() - started > seconds:
            sys.stdout.write(f"{name}: stopped after {seconds:.0f} s\n")
            break
        count += 1
        if survives(name, code):
            survivors += 1
            sys.stdout.write(f"{name}:{line}: {told}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{name}: {count - survivors} of {count} mutants found\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
