"""Numbers that bound something stand in a `limits` module, beside their reason.

1. Outside of the limits, a module or a class has no constant that is a number, but those of
   `NOT_BOUNDS`.
2. A number isn't given to anything whose name says that it bounds (`timeout=`, `maxsize=`,
   `..._s`, `..._bytes`): as an argument, a default, an assignment or a member of a JSON object.
3. It doesn't stand in a comparison by order, as the end of a slice (but of a digest), as the count
   of a loop, nor as an argument of what waits, keeps or reads so much (`BOUNDING_CALLS`).
4. Not bounds are: 0 and 1, 2 in a comparison ("more than one"), HTTP's statuses, ports, the ends of
   integers' widths, and factors: of units, and 2 and 3 of what grows.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.architecture.source_tree import SourceModule, is_within, parse_module, sources

# The lab is no server: nobody but its user makes it do anything. Its times and sizes are constants
# at the head of the modules that use them; the other rules hold for it, too.
WITHOUT_LIMITS = "lab"
NOT_BOUNDS: Mapping[str, str] = {
    "the unit, width or code of a format": """
        federation.causes._IPV6_NETWORK_BITS federation.events.ids._OCTET_MAX
        e2ee.store._NAME_LENGTH_BYTES local_postgres.attach._SOCKET_LINE
        local_postgres.process._STATUS_LINE homeserver.storage.encryption.device_lists.IDS_PER_MS
        homeserver.rules.json_bytes._WIDEST_CHARACTER_BYTES
        """,
    "the size of a key, or the cost of an algorithm that stored data depend on": """
        federation.events.signing.SEED_BYTES federation.events.signing.PUBLIC_KEY_BYTES
        federation.events.signing.SIGNATURE_BYTES e2ee.cli._KEY_BYTES e2ee.crypto.sealed._SCRYPT_N
        e2ee.crypto.sealed.SALT_BYTES local_postgres.roles.SCRAM_ITERATIONS
        homeserver.rules.encryption.device_keys._PUBLIC_KEY_BYTES
        homeserver.services.accounts.logins._PUBLIC_KEY_CHARACTERS
        """,
    "a number of the protocol, or a name that is a number": """
        federation.graph.auth.power_levels.NOTIFICATION_DEFAULT
        federation.graph.auth.power_levels.CREATOR_LEVEL
        federation.transport.requests.resolve._PORT
        homeserver.api.http.response.Response.status
        homeserver.rules.identity.email_settings.EmailSettings.port
        homeserver.rules.rooms.room_presets.CREATOR_LEVEL
        homeserver.rules.rooms.room_presets.TOMBSTONE_LEVEL_PRIVILEGED
        homeserver.rules.rooms.room_presets.STATE_DEFAULT
        homeserver.rules.rooms.room_upgrades._LEVEL_LEAST homeserver.rules.sync.sync_diff.HEROES
        homeserver.api.http.response.Stream.status
        homeserver.services.rooms.joining.intents._NOT_REACHED homeserver.storage.migrate._LOCK
        local_postgres.accounts.NUMERIC_ACCOUNT local_postgres.settings.PORT
        federation.https_urls._PORT
        """,
    "a code of the kernel's interface": """
        homeserver.media.process_rights._PR_SET_DUMPABLE
        homeserver.media.process_rights._PR_SET_SECCOMP
        homeserver.media.process_rights._PR_SET_NO_NEW_PRIVS
        homeserver.media.process_rights._SECCOMP_MODE_FILTER
        homeserver.media.process_rights._RET_KILL_PROCESS
        homeserver.media.process_rights._RET_ERRNO
        homeserver.media.process_rights._RET_ALLOW
        homeserver.media.process_rights._LOAD
        homeserver.media.process_rights._JUMP_IF_EQUAL
        homeserver.media.process_rights._JUMP_IF_GREATER
        homeserver.media.process_rights._SECOND_ARGUMENT_OFFSET
        homeserver.media.process_rights._FCNTL
        homeserver.media.process_rights._F_SETFL
        homeserver.media.process_rights._RETURN
        homeserver.media.process_rights._X86_64
        """,
    "a version that is supported": """
        homeserver.config_check.POSTGRES_LEAST local_postgres.binaries.MAJOR_OLDEST
        local_postgres.binaries.MAJOR_WITH_BUILTIN_LOCALE
        local_postgres.settings.MAJOR_WITH_IO_METHOD
        """,
    "the length of what this server makes": """
        federation.graph.explain.explain_text._SHORT homeserver.engine.remote.places.SPACING
        homeserver.engine.rooms.snapshots._BASE
        homeserver.services.accounts.logins._DEVICE_ID_LETTERS
        """,
    "the measured weight of one thing, by which a bound in bytes is counted": """
        federation.graph.resolution.auth_chains._CHAIN_BYTES
        federation.graph.resolution.auth_chains._ENTRY_BYTES
        federation.graph.resolution.auth_chains._EVENT_BYTES
        federation.graph.resolution.auth_chains._LEVELS_BYTES
        homeserver.engine.followers.outbound_feed._ITEM_BYTES
        homeserver.engine.entries._CHANGE_BYTES homeserver.engine.entries._ENTRY_BYTES
        homeserver.engine.entries._EVENT_BYTES homeserver.engine.rooms.citations._EVENT_BYTES
        homeserver.engine.rooms.room._STATE_ENTRY_BYTES homeserver.engine.rooms.room._ROOM_BYTES
        homeserver.engine.rooms.room._AWAITED_BYTES homeserver.rules.json_bytes._LIST_BYTES
        homeserver.rules.json_bytes._OBJECT_BYTES homeserver.rules.json_bytes._ITEM_BYTES
        """,
}
ALLOWED = frozenset(name for names in NOT_BOUNDS.values() for name in names.split())
BOUNDING_NAMES = re.compile(
    r"(?:^|_)(?:timeout|maxsize|limit|max|min|bytes|characters|chars|s|ms|lifetime|retries|attempts"
    r"|tries|rounds|entries|at_once|cached|kept|count)$",
    re.IGNORECASE,
)
BOUNDING_CALLS = frozenset(
    """
    sleep wait_for timeout timeout_at Semaphore BoundedSemaphore Queue deque ThreadPoolExecutor
    BoundedCache limit_exceeded read iter_chunked min max
    """.split()  # noqa: SIM905
)
INTEGER_WIDTHS = frozenset({31, 32, 53, 63, 64})
PLAIN = frozenset({0, 1})
PLAIN_IN_ORDER = frozenset({0, 1, 2})
UNITLESS = re.compile(r"status|port\b|port'\]")
DIGEST = re.compile(r"digest\(.*\)$")
PACES = frozenset({"sleep", "wait_for", "timeout", "timeout_at"})
FACTORS = frozenset({0, 1, 2, 3, 60, 1000, 1024, 3600, 1_000_000, 1_000_000_000})


def number(node: ast.AST | None) -> float | None:
    """Return the value of an expression of plain numbers, or None; a width's end is none."""
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return number(operand)
        case ast.BinOp(left=left, op=operator, right=right):
            first, second = number(left), number(right)
            if isinstance(operator, ast.Pow) and first == 2 and second in INTEGER_WIDTHS:
                return None
            if first is None or second is None:
                return None
            return max(abs(first), abs(second))
    return None


def is_number(node: ast.AST | None, plain: frozenset[int] = PLAIN) -> bool:
    """Say whether an expression is a number that could bound something."""
    value = number(node)
    return value is not None and value not in plain


def leaves(node: ast.AST) -> Iterator[ast.AST]:
    """Yield an arithmetic expression's operands, down to what isn't arithmetic."""
    match node:
        case ast.BinOp(left=left, right=right):
            yield from (*leaves(left), *leaves(right))
        case _:
            yield node


def name_of(node: ast.AST) -> str:
    """Return the last name of what is assigned or called, or ''."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def bounds(name: str | None) -> bool:
    """Say whether a name says that it bounds something."""
    return name is not None and BOUNDING_NAMES.search(name) is not None


def constants_of(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the names that are numbers in the body of a module or a class, with their places."""
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for name, value in zip(names, values, strict=False):
                    if is_number(value) and bounds(name_of(name)):
                        yield name_of(name), statement
            case ast.Assign(targets=targets, value=value) if is_number(value):
                for target in targets:
                    yield name_of(target), statement
            case ast.AnnAssign(target=target, value=value) if is_number(value):
                yield name_of(target), statement


def constants(module: SourceModule) -> Iterator[tuple[int, str]]:
    """Yield the constants of a module that are numbers, and their lines."""
    scopes: list[tuple[str, Sequence[ast.stmt]]] = [(module.name, module.tree.body)]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and not any(
            name_of(base).endswith("Enum") for base in node.bases
        ):
            scopes.append((f"{module.name}.{node.name}", node.body))
    for scope, body in scopes:
        for name, statement in constants_of(body):
            yield statement.lineno, f"{scope}.{name}"


def named_faults(node: ast.AST) -> Iterator[str]:
    """Yield what is given a number and has a bound's name (rule 2)."""
    match node:
        case ast.keyword(arg=name, value=value) if bounds(name) and is_number(value):
            yield f"{name}= is given a number"
        case ast.Assign(targets=targets, value=value):
            for name in filter(bounds, map(name_of, targets)):
                numbers = filter(None, map(number, leaves(value)))
                if not name.isupper() and (is_number(value) or set(numbers) - FACTORS):
                    yield f"{name} is given a number"
        case ast.AnnAssign(target=target, value=value) if bounds(name_of(target)):
            if not name_of(target).isupper() and is_number(value):
                yield f"{name_of(target)} is given a number"
        case ast.arguments():
            places = [*node.posonlyargs, *node.args]
            pairs = [
                *zip(places[len(places) - len(node.defaults) :], node.defaults, strict=True),
                *zip(node.kwonlyargs, node.kw_defaults, strict=True),
            ]
            for argument, default in pairs:
                if bounds(argument.arg) and is_number(default):
                    yield f"{argument.arg} has a number as default"
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and bounds(str(key.value)) and is_number(value):
                    yield f"{key.value!r} is given a number"


def order_faults(node: ast.AST) -> Iterator[str]:
    """Yield numbers that something is measured by (rule 3)."""
    match node:
        case ast.Compare(left=left, ops=operators, comparators=comparators):
            operands = [left, *comparators]
            if UNITLESS.search(ast.unparse(node)):
                return
            for operator, first, second in zip(operators, operands, comparators, strict=False):
                is_ordered = isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
                numbers = (is_number(one, PLAIN_IN_ORDER) for one in (first, second))
                if is_ordered and any(numbers):
                    yield f"a number in {ast.unparse(node)}"
        case ast.Subscript(slice=ast.Slice(lower=None, upper=upper)) if is_number(
            upper, PLAIN_IN_ORDER
        ):
            if not DIGEST.search(ast.unparse(node.value)):
                yield f"a slice ends at {ast.unparse(node)}"
        case ast.For(iter=ast.Call(func=ast.Name(id="range"), args=arguments)):
            if any(map(is_number, arguments)):
                yield f"a loop over {ast.unparse(node.iter)}"
        case ast.Call(func=function, args=arguments) if name_of(function) in BOUNDING_CALLS:
            plain = frozenset({0}) if name_of(function) in PACES else PLAIN
            if any(is_number(argument, plain) for argument in arguments):
                yield f"a number in {ast.unparse(node)}"


def number_faults(module: SourceModule) -> list[str]:
    """Return the numbers of a module that belong into its package's limits."""
    if "limits" in module.name.split("."):
        return []
    found = [
        (line, f"{name} is a number")
        for line, name in constants(module)
        if name not in ALLOWED and not is_within(module.name, WITHOUT_LIMITS)
    ]
    for node in ast.walk(module.tree):
        line = getattr(node, "lineno", 0)
        found += [(line, fault) for fault in (*named_faults(node), *order_faults(node))]
    return [f"{module.path}:{line}: {fault}" for line, fault in sorted(found)]


def test_bounds_stand_in_the_limits() -> None:
    """A number with a reason is found; one in the middle of the code isn't."""
    faults = [fault for module in sources() for fault in number_faults(module)]
    assert not faults, "\n" + "\n".join(faults)


def test_what_is_no_bound_is_there() -> None:
    """The allow-list has no name that is gone."""
    there = {name for module in sources() for _, name in constants(module)}
    assert there >= ALLOWED, sorted(ALLOWED - there)


@pytest.mark.parametrize(
    "code",
    [
        "_RETRY_S = 5",
        "RETRY_S: Final = 60 * 60.0",
        "LEAST_S, MOST_S = 1.5, 30",
        "class C:\n    tries = 3",
        "class C:\n    limit: int = 10",
        "f(timeout=5)",
        "f(retry_after_s=-2.5)",
        "BoundedCache(50_000)",
        "def f(limit: int = 10): ...",
        "def f(*, wait_s=2): ...",
        "def f():\n    delay_s = 0.05",
        "def f():\n    delay_s = 0.25 * 2**failures",
        "{'retry_after_ms': 5_000}",
        "len(text) < 17",
        "0 <= count <= 100",
        "text[:40]",
        "for _ in range(3): ...",
        "await asyncio.sleep(1)",
        "asyncio.timeout(30)",
        "asyncio.wait_for(x, 2.5)",
        "min(attempts, 20)",
    ],
)
def test_a_number_in_the_code_is_found(code: str) -> None:
    """The check can fail."""
    assert number_faults(parse_module("homeserver.planted", code))


@pytest.mark.parametrize(
    "code",
    [
        "_EMPTY = 0",
        "_FIRST, _SECOND, _THIRD = 1, 2, 3",
        "INTEGER_MAX = 2**53 - 1",
        "class Verdict(IntEnum):\n    REJECTED = 2",
        "f(timeout=limits.REQUEST_S)",
        "BoundedCache(2 * limits.ROOMS)",
        "def f(limit: int = 0): ...",
        "def f():\n    wait_s = wait_ms / 1000",
        "def f():\n    upper_ms = interval_ms * 3",
        "len(heads) < 2",
        "400 <= error.status < 500",
        "0 < int(port) < 65_536",
        "-(2**63) <= value < 2**63",
        "rows[3]",
        "row[2:5]",
        "sha256(text).digest()[:16]",
        "for _ in range(limits.TRIES): ...",
        "await asyncio.sleep(0)",
    ],
)
def test_what_bounds_nothing_passes(code: str) -> None:
    """The check does not find what isn't there."""
    assert not number_faults(parse_module("homeserver.planted", code))


def test_limits_are_numbers() -> None:
    """A module of limits is the place for them."""
    assert not number_faults(parse_module("homeserver.limits.rooms", "HEADS = 20"))
