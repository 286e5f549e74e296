"""Sizes that keep the code readable: lines of functions, classes and files, parameters, nesting.

A file that is only a table may be longer; it is then named in `LONG_TABLES`, with the reason.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.architecture.source_tree import (
    SourceModule,
    classes_of,
    functions_of,
    length_of,
    parse_module,
    sources,
    test_sources,
)

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 800
CLASS_LINES_MAX = 300
CLASS_METHODS_MAX = 20
PLACES_MAX = 6  # parameters that can be given by place
PARAMETERS_MAX = 8  # in all; what belongs together is one frozen object
PARTS_MAX = 9  # of a constructor: its parts, each given by name by the one maker that knows all
TEST_PARAMETERS_MAX = 10  # a world's builder stands for a whole body of JSON
NESTING_MAX = 4
LONG_TABLES: Mapping[str, str] = {}
# What outgrew a limit and waits for its split; the list may only shrink.
OUTGROWN: frozenset[str] = frozenset()
NESTS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def nesting(body: Sequence[ast.stmt], depth: int = 0) -> int:
    """Return how deep compound statements stand within each other; `elif` does not nest."""
    deepest = depth
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        inner = depth + isinstance(statement, NESTS)
        deepest = max(deepest, inner)
        for block in blocks_of(statement):
            is_elif = (
                isinstance(statement, ast.If)
                and block is statement.orelse
                and len(block) == 1
                and isinstance(block[0], ast.If)
            )
            deepest = max(deepest, nesting(block, depth if is_elif else inner))
    return deepest


def blocks_of(statement: ast.stmt) -> Iterator[Sequence[ast.stmt]]:
    """Yield the blocks of statements that a compound statement has."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(statement, name, None)
        if isinstance(block, list):
            yield block
    for handler in getattr(statement, "handlers", []):
        yield handler.body
    for case in getattr(statement, "cases", []):
        yield case.body


def place_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many parameters can be given by place, without self and cls."""
    names = [item.arg for item in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def parameter_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many parameters there are, those after `*` too, without self and cls."""
    return place_count(function) + len(function.args.kwonlyargs)


def file_faults(module: SourceModule, lines_max: int) -> Iterator[str]:
    """Yield a fault if a file is too long."""
    if module.line_count > lines_max and module.path not in LONG_TABLES:
        yield f"{module.path} has {module.line_count} lines, more than {lines_max}"


def function_faults(module: SourceModule, parameters_max: int = PARAMETERS_MAX) -> Iterator[str]:
    """Yield what is too large in the functions of a module."""
    for function in functions_of(module):
        place = f"{module.path}:{function.lineno} {function.name}"
        if length_of(function) > FUNCTION_LINES_MAX:
            yield f"{place} has {length_of(function)} lines, more than {FUNCTION_LINES_MAX}"
        if place_count(function) > PLACES_MAX:
            yield f"{place} has {place_count(function)} places, options go after *"
        most = max(parameters_max, PARTS_MAX) if function.name == "__init__" else parameters_max
        if parameter_count(function) > most:
            yield f"{place} has {parameter_count(function)} parameters, more than {most}"
        if nesting(function.body) > NESTING_MAX:
            yield f"{place} nests {nesting(function.body)} deep, more than {NESTING_MAX}"


def class_faults(module: SourceModule) -> Iterator[str]:
    """Yield what is too large in the classes of a module."""
    for item in classes_of(module):
        place = f"{module.path}:{item.lineno} class {item.name}"
        methods = sum(isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef) for x in item.body)
        if length_of(item) > CLASS_LINES_MAX:
            yield f"{place} has {length_of(item)} lines, more than {CLASS_LINES_MAX}"
        if methods > CLASS_METHODS_MAX:
            yield f"{place} has {methods} methods, more than {CLASS_METHODS_MAX}"


def fault_key(fault: str) -> str:
    """Return a fault without the numbers that change with each edit: file and name."""
    place, _, rest = fault.partition(" ")
    return f"{place.partition(':')[0]} {rest.partition(' has ')[0]}"


def size_faults(module: SourceModule, lines_max: int) -> list[str]:
    """Return all faults of one module of the product."""
    faults = [*file_faults(module, lines_max), *function_faults(module), *class_faults(module)]
    return [fault for fault in faults if fault_key(fault) not in OUTGROWN]


def test_functions_classes_and_files_stay_small() -> None:
    """The product keeps the limits."""
    faults = [fault for module in sources() for fault in size_faults(module, FILE_LINES_MAX)]
    assert not faults, "\n" + "\n".join(faults)


def test_tests_stay_small_too() -> None:
    """The tests keep the limits, with longer files; a double is as large as what it stands for."""
    faults = [
        fault
        for module in test_sources()
        for fault in (
            *file_faults(module, TEST_FILE_LINES_MAX),
            *function_faults(module, TEST_PARAMETERS_MAX),
        )
    ]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * (FILE_LINES_MAX + 1),
        "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX,
        "def f(a, b, c, d, e, g, h): ...\n",
        "def f(a, *, b, c, d, e, g, h, i, j): ...\n",
        "class C:\n def __init__(self, a, *, b, c, d, e, g, h, i, j, k): ...\n",
        "def f():\n if a:\n  for b in c:\n   while d:\n    with e:\n     if g: pass\n",
        "class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(CLASS_METHODS_MAX + 1)),
        "class C:\n" + "    x = 1\n" * CLASS_LINES_MAX,
    ],
)
def test_each_kind_of_excess_is_found(text: str) -> None:
    """The checks can fail."""
    assert size_faults(parse_module("homeserver.planted", text), FILE_LINES_MAX)


@pytest.mark.parametrize(
    "text",
    [
        "def f(self, a, b, c, d, e, g, *, h, i): ...\n",
        "class C:\n def __init__(self, *, a, b, c, d, e, g, h, i, j): ...\n",
        "def f():\n if a: pass\n elif b: pass\n elif c: pass\n elif d: pass\n elif e: pass\n",
        "def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1),
    ],
)
def test_what_is_within_the_limits_passes(text: str) -> None:
    """The checks do not find what isn't there."""
    assert not size_faults(parse_module("homeserver.planted", text), FILE_LINES_MAX)
