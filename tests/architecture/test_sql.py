"""SQL is in `homeserver.storage` and `local_postgres` alone, and in `lab`, which looks at servers'
databases. The client library's file has a module of its own.

Outside of storage a caller may own a transaction, in which functions of storage run; single reads
are methods of the tables (`homeserver.storage.database`, rules 2 and 3).
"""

import ast
import re
from collections.abc import Iterator, Sequence

import pytest

from tests.architecture.source_tree import SourceModule, is_within, parse_module, sources

HOMES = ("homeserver.storage", "local_postgres", "lab", "e2ee.store")
STATEMENT = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|TRUNCATE|CREATE)\s")


def first_text(call: ast.Call) -> str:
    """Return the text that a call's first argument starts with, or ""."""
    first = call.args[0] if call.args else None
    if isinstance(first, ast.JoinedStr):
        first = first.values[0]
    is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return str(first.value) if is_text and isinstance(first, ast.Constant) else ""


def sql_faults(modules: Sequence[SourceModule]) -> Iterator[str]:
    """Yield each statement, and each connection of the pool, outside of the modules for them."""
    for module in modules:
        if any(is_within(module.name, home) for home in HOMES):
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            place = f"{module.path}:{node.lineno}"
            if STATEMENT.match(first_text(node)):
                yield f"{place} has SQL"
            owner = ast.unparse(node.func.value)
            if node.func.attr == "connection" and "database" in owner:
                yield f"{place} takes a connection of the pool"


def test_sql_is_in_storage() -> None:
    """A table can be changed where all statements about it stand."""
    faults = list(sql_faults(sources()))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("name", "code", "fault"),
    [
        ("homeserver.services.x", "connection.fetch('SELECT 1')", "has SQL"),
        ("homeserver.app", "database.execute(f'DELETE FROM {name}')", "has SQL"),
        ("homeserver.x", "self._database.connection()", "takes a connection of the pool"),
        ("homeserver.x", "self._database.transaction()", None),
        ("homeserver.x", "log.info('SELECTED %s', 1)", None),
        ("homeserver.storage.x", "self._database.connection().fetch('SELECT 1')", None),
    ],
)
def test_sql_elsewhere_is_found(name: str, code: str, fault: str | None) -> None:
    """The check can fail."""
    found = list(sql_faults([parse_module(name, code)]))
    path = name.replace(".", "/") + ".py"
    assert found == ([] if fault is None else [f"{path}:1 {fault}"])
