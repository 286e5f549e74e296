"""Habits that a test can hold: names of modules, docstrings, parents of tasks, no hidden state."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.source_tree import SourceModule, parse_module, sources, test_sources

NAMELESS = frozenset({"utils", "util", "helpers", "helper", "common", "base", "types", "models"})
# Where long-lived tasks are made, watched and ended; everything else uses a TaskGroup or hands its
# work to one of these.
TASK_SUPERVISORS = frozenset({"homeserver.supervisor", "local_postgres.cluster"})
TASK_MAKERS = frozenset({"create_task", "ensure_future"})
BROAD = frozenset({"Exception", "BaseException"})
MODULES_PER_PACKAGE_MAX = 12
NEGATED = re.compile(
    r"(?<!there )\bis no\s+(boolean|string|integer|number|object|array|list|map|mapping|pair|"
    r"dictionary|key|token|event|state event|canonical JSON|(user|room|event) ID)\b",
    re.IGNORECASE,
)


def name_faults(module: SourceModule) -> Iterator[str]:
    """Yield a fault if a module has a name that says nothing."""
    if module.name.rpartition(".")[2] in NAMELESS:
        yield f"{module.path}: a thing without a home is a missing noun; name the noun"


def docstring_faults(module: SourceModule) -> Iterator[str]:
    """Yield a fault if a module does not say what it is for."""
    if ast.get_docstring(module.tree) is None:
        yield f"{module.path} has no docstring"


def method_faults(module: SourceModule) -> Iterator[str]:
    """Yield each public method of a public class without a docstring; one that only declares, with
    `...`, needs none."""
    for owner in module.tree.body:
        if not isinstance(owner, ast.ClassDef) or owner.name.startswith("_"):
            continue
        for node in owner.body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    declares = [ast.unparse(one) for one in node.body] == ["..."]
                    if not (name.startswith("_") or declares or ast.get_docstring(node)):
                        yield f"{module.path}:{node.lineno} {owner.name}.{name} has no docstring"


def question_faults(module: SourceModule) -> Iterator[str]:
    """Yield each docstring whose first sentence is a question instead of a statement."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                first = re.split(r"(?<=[.?!])\s", text.strip(), maxsplit=1)[0]
                if first.endswith("?"):
                    yield f"{module.path}:{node.lineno} asks a question"


def negation_faults(module: SourceModule) -> Iterator[str]:
    """Yield each text that negates a kind of value by `no`, instead of "is not a string"."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Constant(value=str(text)) if found := NEGATED.search(text):
                yield f"{module.path}:{node.lineno} says {found[0]!r}"


def task_faults(module: SourceModule) -> Iterator[str]:
    """Yield each task made outside of a supervisor; those of a TaskGroup (`group.…`) have a
    parent."""
    if module.name in TASK_SUPERVISORS:
        return
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id=name) if name in TASK_MAKERS:
                yield f"{module.path}:{node.lineno} makes a task without a parent"
            case ast.Attribute(value=owner, attr=name) if name in TASK_MAKERS:
                if not ast.unparse(owner).endswith(("group", "tasks")):
                    yield f"{module.path}:{node.lineno} makes a task without a parent"


def state_faults(module: SourceModule) -> Iterator[str]:
    """Yield module state that can change: `global`, and lists, dicts and sets in small letters."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"{module.path}:{node.lineno} changes module state"
    for statement in module.tree.body:
        if not isinstance(statement, ast.Assign):
            continue
        mutable = isinstance(statement.value, ast.List | ast.Dict | ast.Set | ast.ListComp)
        small = any(isinstance(name, ast.Name) and is_small(name.id) for name in statement.targets)
        if mutable and small:
            yield f"{module.path}:{statement.lineno} keeps mutable module state"


def is_small(name: str) -> bool:
    """Say whether a name is a variable's, neither a constant's nor the interpreter's."""
    return name.islower() and not name.startswith("__")


def silence_faults(module: SourceModule) -> Iterator[str]:
    """Yield each handler that swallows every error without a word."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in BROAD)
        if broad and all(isinstance(statement, ast.Pass) for statement in node.body):
            yield f"{module.path}:{node.lineno} swallows every error"


def habit_faults(module: SourceModule) -> list[str]:
    """Return all faults of one module of the product."""
    checks = (
        name_faults,
        docstring_faults,
        method_faults,
        question_faults,
        negation_faults,
        task_faults,
        state_faults,
        silence_faults,
    )
    return [fault for check in checks for fault in check(module)]


def test_the_product_keeps_the_habits() -> None:
    """Names, docstrings, tasks, state and errors are as the conventions say."""
    faults = [fault for module in sources() for fault in habit_faults(module)]
    assert not faults, "\n" + "\n".join(faults)


def test_tests_say_what_they_are_for() -> None:
    """Tests have docstrings and names, too."""
    checks = (name_faults, docstring_faults, negation_faults, silence_faults)
    faults = [fault for module in test_sources() for check in checks for fault in check(module)]
    assert not faults, "\n" + "\n".join(faults)


def test_packages_stay_small_enough_to_know() -> None:
    """A package that grows past a limit is split by noun. Those of the limits and of the domains'
    makers are split so already: they have one module for each noun, or each domain, and nothing
    else."""
    counts: dict[str, int] = {}
    for module in sources():
        if {"limits", "domains"} & set(module.name.split(".")):
            continue
        folder, _, name = module.path.rpartition("/")
        counts[folder] = counts.get(folder, 0) + (name != "__init__.py")
    large = {name: count for name, count in counts.items() if count > MODULES_PER_PACKAGE_MAX}
    assert not large


@pytest.mark.parametrize(
    "text",
    [
        '"""D."""\nimport asyncio\nasyncio.create_task(f())\n',
        '"""D."""\nloop.create_task(f())\n',
        '"""D."""\nseen = {}\n',
        '"""D."""\ndef f():\n    global x\n',
        '"""D."""\ntry:\n    f()\nexcept Exception:\n    pass\n',
        "x = 1\n",
        '"""D."""\ndef f():\n    """Is it one? Else None."""\n',
        '"""D."""\nclass C:\n    """D."""\n    async def f(self):\n        return 1\n',
        f'"""D."""\ndef f(name):\n    raise E(f"{{name}} is no {"string"}")\n',
    ],
)
def test_each_broken_habit_is_found(text: str) -> None:
    """The checks can fail."""
    assert habit_faults(parse_module("homeserver.planted", text))


def test_a_module_called_utils_is_found() -> None:
    """The check of names can fail."""
    assert habit_faults(parse_module("homeserver.api.utils", '"""D."""\n'))


def test_a_declared_or_private_method_needs_no_docstring() -> None:
    """The check of methods knows Protocols."""
    text = '"""D."""\nclass C:\n    """D."""\n    def f(self): ...\n    def _g(self): return 1\n'
    assert not habit_faults(parse_module("homeserver.planted", text))


def test_a_task_of_a_group_has_a_parent() -> None:
    """The check of tasks knows TaskGroup."""
    text = '"""D."""\nasync def f(group):\n    group.create_task(g())\n'
    assert not habit_faults(parse_module("homeserver.planted", text))
