"""The search of what operators hold: planted leaks are caught, a blind search is called blind."""

import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from lab.canary import CanaryKind, Searcher, new_kind
from lab.database import EmbeddedDatabase, GivenDatabase, with_database
from lab.operator_view import OperatorView, look
from lab.topology import Topology, plan, server_names
from local_postgres import EmbeddedCluster

SECRET, CONTROL = new_kind("encrypted"), new_kind("control")


@pytest.fixture
async def database(reachable_folder: Path) -> AsyncIterator[EmbeddedDatabase]:
    """Yields a lab's embedded database, running."""
    own = EmbeddedDatabase(reachable_folder / "postgres")
    await own.start()
    yield own
    await own.stop()


@pytest.fixture
def topology(reachable_folder: Path) -> Topology:
    """Returns the plan of two servers."""
    return plan(reachable_folder / "lab", server_names(2))


async def store(database: EmbeddedDatabase, name: str, text: bytes) -> None:
    """Have a server store something in a table of its own."""
    connection = await asyncpg.connect(await database.address_of(name))
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS events (json bytea)")
        await connection.execute("INSERT INTO events VALUES ($1)", text)
    finally:
        await connection.close()


async def look_after_control(
    database: EmbeddedDatabase, topology: Topology, *, leave_out: str = ""
) -> OperatorView:
    """Stores the control at every server (but one), and search."""
    for server in topology.servers:
        await store(database, server.database_name, b'{"ciphertext": "AwgAEnACGpqbMqDMfBZDvA"}')
        if server.name != leave_out:
            await store(database, server.database_name, CONTROL.word().encode())
    return await look(topology, database, Searcher(SECRET, CONTROL))


async def test_the_control_is_found_and_nothing_else(
    database: EmbeddedDatabase, topology: Topology
) -> None:
    """A sound lab: no canary of an encrypted message anywhere, the control everywhere."""
    view = await look_after_control(database, topology)
    assert view.found("encrypted") == 0
    assert view.blind_spots("control") == []
    assert view.bytes_searched() > 1024 * 1024
    assert [server.table_count for server in view.servers] == [1, 1]
    assert view.servers[0].ciphertext_excerpt == "AwgAEnACGpqbMqDMfBZDvA"


async def test_a_search_that_misses_the_control_is_called_blind(
    database: EmbeddedDatabase, topology: Topology
) -> None:
    """Without the control in a server's tables, its search proves nothing."""
    view = await look_after_control(database, topology, leave_out="hs2")
    assert view.blind_spots("control") == ["hs2's tables"]


@pytest.mark.parametrize("leak", ["table", "compressed", "log", "file", "deleted row"])
async def test_a_planted_leak_is_caught(
    database: EmbeddedDatabase, topology: Topology, leak: str
) -> None:
    """Whatever way a message's words reach something that the operator holds."""
    server = topology.server("hs1")
    word = SECRET.word().encode()
    match leak:
        case "table":
            await store(database, server.database_name, b"x" * 5000 + word)
        case "compressed":
            await store(database, server.database_name, zlib.compress(word * 4))
        case "log":
            server.log_path.write_bytes(b"debug: got " + word)
        case "file":
            (server.folder / "cache").write_bytes(word)
        case _:
            await store(database, server.database_name, word)
            connection = await asyncpg.connect(await database.address_of(server.database_name))
            await connection.execute("DELETE FROM events")
            await connection.close()
    view = await look_after_control(database, topology)
    assert view.found("encrypted") >= 1
    assert view.places("encrypted")


async def test_another_servers_tables_are_not_mixed_up(
    database: EmbeddedDatabase, topology: Topology
) -> None:
    """A leak at hs2 is told of hs2."""
    await store(database, topology.server("hs2").database_name, SECRET.word().encode())
    view = await look_after_control(database, topology)
    assert [server.tables.found("encrypted") for server in view.servers] == [0, 1]


async def test_a_given_database_gets_a_database_for_each_server(
    postgres_cluster: EmbeddedCluster,
) -> None:
    """An address of somebody else's PostgreSQL serves as well; its files are out of reach."""
    given = GivenDatabase(postgres_cluster.superuser_dsn())
    await given.start()
    address = await given.address_of("freehold_given")
    assert await given.address_of("freehold_given") == address
    connection = await asyncpg.connect(address)
    assert await connection.fetchval("SELECT current_database()") == "freehold_given"
    await connection.close()
    assert given.raw_folder() is None
    await given.stop()


async def test_a_given_database_that_does_not_answer_is_an_error() -> None:
    """The error says that it does not answer."""
    with pytest.raises(ConnectionError, match="does not answer"):
        await GivenDatabase("postgresql://x@127.0.0.1:1/x").start()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://u:p@host:1/a?x=y", "postgresql://u:p@host:1/b?x=y"),
        ("postgresql://u:p@/a?host=/run", "postgresql://u:p@/b?host=/run"),
        ("postgresql:///a?host=/run", "postgresql:///b?host=/run"),
        ("postgresql:///a", "postgresql:///b"),
    ],
)
def test_the_database_of_an_address_is_replaced(address: str, expected: str) -> None:
    """All that else stands in an address stays."""
    assert with_database(address, "b") == expected


def test_kinds_do_not_overlap() -> None:
    """The two kinds of this test are really two."""
    assert isinstance(SECRET, CanaryKind)
    assert SECRET.prefix != CONTROL.prefix
