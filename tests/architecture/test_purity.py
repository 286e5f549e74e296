"""Decisions are pure: no clock, no randomness, no I/O, no tasks in the packages that decide.

Time and random bytes are arguments there, so that a simulation can replay them.
"""

import ast
from collections.abc import Iterator, Sequence

import pytest

from tests.architecture.source_tree import (
    SourceModule,
    imports_of,
    is_within,
    parse_module,
    sources,
)

PURE = ("federation.events", "federation.graph", "homeserver.rules", "e2ee.machine")
IMPURE_MODULES = frozenset(
    {
        "asyncio",
        "concurrent",
        "http",
        "io",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "random",
        "secrets",
        "select",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "urllib.request",
        "uuid",
    }
)
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__"})
IMPURE_METHODS = frozenset({"now", "utcnow", "today"})
ASYNC_NODES = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)


def purity_faults(modules: Sequence[SourceModule]) -> Iterator[str]:
    """Yield what makes a module of a pure package impure."""
    for module in modules:
        if not any(is_within(module.name, package) for package in PURE):
            continue
        for item in imports_of(module):
            if any(is_within(item.target, name) for name in IMPURE_MODULES):
                yield f"{module.path}:{item.line} imports {item.target} in a pure package"
        for node in ast.walk(module.tree):
            if isinstance(node, ASYNC_NODES):
                yield f"{module.path}:{node.lineno} is asynchronous in a pure package"
            elif isinstance(node, ast.Call):
                yield from call_faults(module, node)


def call_faults(module: SourceModule, call: ast.Call) -> Iterator[str]:
    """Yield a fault if a call reads the clock or the world."""
    match call.func:
        case ast.Name(id=name) if name in IMPURE_CALLS:
            yield f"{module.path}:{call.lineno} calls {name} in a pure package"
        case ast.Attribute(attr=name) if name in IMPURE_METHODS:
            yield f"{module.path}:{call.lineno} calls .{name}() in a pure package"


def test_pure_packages_touch_no_clock_no_chance_and_no_world() -> None:
    """Same arguments, same result: in events, graph, rules and the client's machine."""
    faults = list(purity_faults(sources()))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    "text",
    [
        "import time\n",
        "from os import urandom\n",
        "def f():\n    import secrets\n",
        "async def f(): ...\n",
        "from datetime import datetime\nNOW = datetime.now()\n",
        "open('x')\n",
    ],
)
def test_each_kind_of_impurity_is_found(text: str) -> None:
    """The check can fail."""
    assert list(purity_faults([parse_module("federation.graph.planted", text)]))


def test_impurity_outside_of_pure_packages_is_allowed() -> None:
    """The check knows where it holds."""
    assert not list(
        purity_faults([parse_module("homeserver.engine.local.writer", "import time\n")])
    )
