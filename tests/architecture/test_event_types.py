"""Event types are written once, in `federation.events.event_types`; a literal elsewhere is a fault.

The client library may not import that module (see `test_layers`) and keeps its own.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence

import pytest

from federation.events import event_types
from tests.architecture.source_tree import SourceModule, is_within, parse_module, sources

HOME = "federation.events.event_types"
PACKAGES = ("federation", "homeserver", "lab")
TYPES: Mapping[str, str] = {
    value: name for name, value in vars(event_types).items() if isinstance(value, str)
}
NAMES = {value: name for value, name in TYPES.items() if value.startswith("m.")}


def literals_in(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the constants of a module that are values, not docstrings."""
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            yield node


def literal_faults(modules: Sequence[SourceModule]) -> Iterator[str]:
    """Yield each literal that is an event type with a name, and each `m.room.` type without."""
    for module in modules:
        is_ours = any(is_within(module.name, package) for package in PACKAGES)
        if not is_ours or module.name == HOME:
            continue
        for node in literals_in(module.tree):
            if not isinstance(node.value, str):
                continue
            name = NAMES.get(node.value)
            place = f"{module.path}:{node.lineno}"
            if name is not None:
                yield f"{place} writes {node.value!r}; it is event_types.{name}"
            elif node.value.startswith("m.room.") and " " not in node.value:
                yield f"{place} writes {node.value!r}, which {HOME} lacks"


def test_event_types_are_named() -> None:
    """A misspelt name is found by the linter, a misspelt literal by a user."""
    faults = list(literal_faults(sources()))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("x == 'm.room.member'", "writes 'm.room.member'; it is event_types.MEMBER"),
        ("state[('m.room.name', '')]", "writes 'm.room.name'; it is event_types.NAME"),
        ("{'edu_type': 'm.typing'}", "writes 'm.typing'; it is event_types.TYPING"),
        ("x == 'm.room.pinned_events'", f"writes 'm.room.pinned_events', which {HOME} lacks"),
    ],
)
def test_a_literal_is_found(code: str, fault: str) -> None:
    """The check can fail."""
    module = parse_module("homeserver.services.x", code + "\n")
    assert list(literal_faults([module])) == [f"homeserver/services/x.py:1 {fault}"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("homeserver.services.x", "def f():\n    'm.room.member'\n"),
        ("homeserver.storage.x", "SQL = \"WHERE type = 'm.room.member'\""),
        ("homeserver.services.x", "event_types.MEMBER"),
        ("e2ee.machine.x", "x == 'm.room.member'"),
        (HOME, "MEMBER = 'm.room.member'"),
    ],
)
def test_docstrings_statements_and_the_client_are_no_faults(name: str, code: str) -> None:
    """What is allowed stays so."""
    assert list(literal_faults([parse_module(name, code)])) == []


def test_each_type_has_one_name() -> None:
    """Two names for one type would be as many places again."""
    values = [value for value in vars(event_types).values() if isinstance(value, str)]
    types = [value for value in values if value.startswith("m.")]
    assert len(types) == len(set(types)) > 20
