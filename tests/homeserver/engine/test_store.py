"""Both stores, over PostgreSQL and in memory, have the methods of the engine's protocols, called
alike."""

import inspect
from collections.abc import Iterator
from typing import Any, cast, get_type_hints

import pytest

from homeserver.engine.store import EngineStore
from homeserver.storage.database import Database
from homeserver.storage.postgres_store import PostgresStore
from tests.simulation.memory_store import MemoryStore
from tests.simulation.memory_tables import Tables


def parts() -> Iterator[tuple[str, type]]:
    """The stores of `EngineStore`, with their protocols."""
    for name, value in vars(EngineStore).items():
        if isinstance(value, property):
            assert value.fget is not None
            yield name, get_type_hints(value.fget)["return"]


def methods(kind: type) -> dict[str, list[tuple[str, Any, Any]]]:
    """The public methods of a class, each with its parameters: name, kind, default."""
    return {
        name: [(one.name, one.kind, one.default) for one in signature.parameters.values()]
        for name, method in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not name.startswith("_")
        for signature in [inspect.signature(method)]
    }


def stores() -> list[EngineStore]:
    return [PostgresStore(cast(Database, None)), MemoryStore(Tables())]


@pytest.mark.parametrize(("name", "protocol"), list(parts()), ids=lambda one: str(one))
def test_each_store_has_the_methods_of_its_protocol(name: str, protocol: type) -> None:
    wanted = methods(protocol)
    assert wanted
    for store in stores():
        found = methods(type(getattr(store, name)))
        assert {one: found.get(one) for one in wanted} == wanted


@pytest.mark.parametrize(("name", "protocol"), list(parts()), ids=lambda one: str(one))
def test_the_store_in_memory_has_no_other_methods(name: str, protocol: type) -> None:
    """What no protocol has isn't called by the engine, so it would be dead."""
    assert methods(type(getattr(MemoryStore(Tables()), name))).keys() == methods(protocol).keys()
