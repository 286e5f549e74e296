"""The project's sources as syntax trees, for the tests that hold its architecture.

1. Imports are read from the tree, so that those inside functions and under TYPE_CHECKING count too.
2. A package that isn't there yet is simply empty.
3. Everything works on `SourceModule` values, so that each check can be tried on planted sources.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("federation", "homeserver", "e2ee", "lab", "local_postgres")


@dataclass(frozen=True)
class SourceModule:
    """One module: its dotted name, path below the project, text and syntax tree."""

    name: str
    path: str
    text: str
    tree: ast.Module

    @property
    def line_count(self) -> int:
        """Return the number of lines."""
        return len(self.text.splitlines())


@dataclass(frozen=True)
class Import:
    """One name that a module imports (`package.module` or `package.module.name`) and its line."""

    target: str
    line: int


def parse_module(name: str, text: str, path: str = "") -> SourceModule:
    """Return a module from its text."""
    return SourceModule(name, path or name.replace(".", "/") + ".py", text, ast.parse(text))


def read_modules(folders: Sequence[str]) -> Iterator[SourceModule]:
    """Yield every Python module below folders of the project, those that exist."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT)
            parts = relative.with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield parse_module(name, path.read_text(), str(relative))


@cache
def sources() -> tuple[SourceModule, ...]:
    """Return the modules of the product (not the tests)."""
    return tuple(read_modules(PACKAGES))


@cache
def test_sources() -> tuple[SourceModule, ...]:
    """Return the modules of the tests."""
    return tuple(read_modules(("tests",)))


# pytest collects what is named so in test modules that import it
test_sources.__test__ = False  # type: ignore[attr-defined]


def imports_of(module: SourceModule) -> Iterator[Import]:
    """Yield everything a module imports, wherever in it; `from a import b` is yielded as `a.b`."""
    package = module.name if module.path.endswith("__init__.py") else module.name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno)


def resolve(target: str, names: frozenset[str]) -> str | None:
    """Return the project's module that an imported name is or lives in, or None for others'."""
    for candidate in (target, target.rpartition(".")[0]):
        if candidate in names:
            return candidate
    return None


def is_within(name: str, prefix: str) -> bool:
    """Say whether a dotted name is a package or anything below it."""
    return name == prefix or name.startswith(prefix + ".")


def import_graph(modules: Sequence[SourceModule]) -> dict[str, frozenset[str]]:
    """Return for each module the project's modules that it imports, itself left out."""
    names = frozenset(module.name for module in modules)
    graph: dict[str, frozenset[str]] = {}
    for module in modules:
        found = {resolve(item.target, names) for item in imports_of(module)}
        graph[module.name] = frozenset(name for name in found if name and name != module.name)
    return graph


def functions_of(module: SourceModule) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a module."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def classes_of(module: SourceModule) -> Iterator[ast.ClassDef]:
    """Yield every class of a module."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            yield node


def length_of(node: ast.stmt) -> int:
    """Return how many lines a definition has, without decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1
