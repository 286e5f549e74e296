"""`homeserver.app` joins objects and decides nothing: what decides has a home below."""

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source_tree import SourceModule, is_within, parse_module, sources

APP = "homeserver.app"
CONFIGURATION = "config"
"""The name that a parameter with the configuration has; only its values may be asked about."""

DECISIONS: dict[type[ast.AST], str] = {
    ast.Try: "handles an error",
    ast.Raise: "refuses something",
    ast.Assert: "checks something",
    ast.While: "repeats something until it decides to stop",
    ast.Match: "tells cases apart",
    ast.BoolOp: "chooses a value",
    ast.Compare: "compares values",
    ast.Lambda: "has a function of its own",
}


def condition_names(node: ast.expr) -> set[str]:
    """Return the names that an expression starts from."""
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def asked(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the conditions of a module that ask about the configuration alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp) and condition_names(node.test) == {CONFIGURATION}:
            yield node.test


def closures(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the functions inside of functions."""
    for outer in ast.walk(tree):
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(outer):
                if node is not outer and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield node


def decisions(module: SourceModule) -> Iterator[str]:
    """Yield each line of a module that does more than to construct and to hand over."""
    allowed = list(asked(module.tree))
    within = {id(part) for test in allowed for part in ast.walk(test)}
    for node in ast.walk(module.tree):
        line = f"{module.path}:{getattr(node, 'lineno', 0)}"
        if id(node) in within:
            continue
        match node:
            case ast.If(test=test) | ast.IfExp(test=test) if test not in allowed:
                yield f"{line} asks about more than the configuration"
            case ast.comprehension(ifs=[_, *_]):
                yield f"{line} chooses among values"
            case _ if reason := DECISIONS.get(type(node)):
                yield f"{line} {reason}"
    for node in closures(module.tree):
        yield f"{module.path}:{getattr(node, 'lineno', 0)} has a function inside of a function"


def test_app_decides_nothing() -> None:
    """Each module of `app` constructs and hands over."""
    modules = [module for module in sources() if is_within(module.name, APP)]
    assert len(modules) > len(DECISIONS), "the modules of app are found"
    faults = [fault for module in modules for fault in decisions(module)]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    "text",
    [
        "def make(a): return a or b()",
        "def make(a): return b() if a is None else a",
        "def make(a, config):\n    if config.x and a: b()",
        "def make(a):\n    async def ask(c): return a\n    return b(ask)",
        "def make(a): return b(lambda c: a.leave(c, {}))",
        "def make(a):\n    try: a()\n    except OSError: b()",
        "def make(a): raise MatrixError(404)",
        "def make(a): return [one for one in a if one]",
        "def make(a):\n    while True: b()",
        "def make(a):\n    match a:\n        case 1: b()",
        "class Asks:\n    def profile(self): assert self.a",
    ],
)
def test_each_decision_is_found(text: str) -> None:
    """The checks can fail."""
    assert list(decisions(parse_module(f"{APP}.planted", text)))


@pytest.mark.parametrize(
    "text",
    [
        "def make(a): return B(a, C(a.d).ask)",
        'def make(config):\n    if config.database.url == "embedded": return b()\n    return c()',
        "def make(config): return [b()] if config.metrics.address else []",
        "def make(a):\n    for one in (a.b, a.c): a.subscribe(one)",
    ],
)
def test_what_joins_is_no_decision(text: str) -> None:
    """The checks let through what `app` is for."""
    assert not list(decisions(parse_module(f"{APP}.planted", text)))
