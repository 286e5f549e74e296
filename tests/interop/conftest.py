"""Real servers for real clients: two processes that federate over TLS, kept for a whole module.

1. Each test makes its own users and rooms, so the servers may be shared.
2. A server that logs a failure of its own fails the module, whatever its clients made of it.
"""

import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from e2ee.client import Client
from lab.certificates import client_context
from lab.running import Lab
from lab.topology import Ports, SavedPlan, free_ports, make_home, save
from local_postgres import EmbeddedCluster
from tests.conftest import drop_database
from tests.interop.nio_person import PASSWORD, NioPerson

NAMES = ("hs1", "hs2")


class SessionDatabase:
    """The test process's cluster, with a database for each server of a lab."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster
        self._names: list[str] = []

    async def start(self) -> None:
        """It runs already."""

    async def stop(self) -> None:
        """The cluster stays; the databases go."""
        for name in self._names:
            await drop_database(self._cluster, name)

    async def address_of(self, name: str) -> str:
        """A new database for a server."""
        self._names.append(f"{name}_{secrets.token_hex(4)}")
        return await self._cluster.ensure_database(self._names[-1])

    def operator_address(self, name: str) -> str:
        """Nobody looks into it here."""
        raise AssertionError(f"{name}: no operator here")

    def raw_folder(self) -> Path | None:
        """Nobody looks into it here."""
        return None

    def log_path(self) -> Path | None:
        """Nobody looks into it here."""
        return None


def choose_ports(home: Path) -> None:
    """Ports that no lab prefers: another one may start at the same moment, in another worker."""
    make_home(home)
    taken = {0}
    while len(taken) < 2 * len(NAMES) + 1:
        taken.add(next(free_ports(0, taken)))
    free = sorted(taken - {0})
    chosen = {name: Ports(tls=free.pop(), http=free.pop()) for name in NAMES}
    save(home, SavedPlan(secrets.token_hex(3), chosen))


def faults(log_path: Path) -> list[str]:
    """What a server's log says of its own failures, with the traces."""
    lines = log_path.read_text().splitlines()
    starts = [index for index, line in enumerate(lines) if " ERROR " in line]
    return [line for start in starts for line in lines[start : start + 40]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(postgres_cluster: EmbeddedCluster) -> AsyncIterator[Lab]:
    """Two servers, `hs1` and `hs2`, that federate over verified TLS."""
    with tempfile.TemporaryDirectory(prefix="freehold-interop-") as folder:
        database = SessionDatabase(postgres_cluster)
        home = Path(folder) / "lab"
        choose_ports(home)
        async with Lab(home, NAMES, database) as lab:
            yield lab
            complaints = [line for one in lab.topology.servers for line in faults(one.log_path)]
        assert not complaints, "\n".join(complaints)


NioEntry = Callable[..., Awaitable[NioPerson]]
OurEntry = Callable[..., Awaitable[Client]]


@pytest.fixture
async def nio(servers: Lab, tmp_path: Path) -> AsyncIterator[NioEntry]:
    """Registers a matrix-nio client with a fresh name, or logs one in as another device."""
    people: list[NioPerson] = []

    async def enter(name: str, server: str = "hs1", *, again: NioPerson | None = None) -> NioPerson:
        folder = tmp_path / f"nio-{len(people)}"
        folder.mkdir()
        person = NioPerson(servers.topology.server(server).http_url, folder)
        people.append(person)
        if again is None:
            await person.register(f"{name}-{secrets.token_hex(3)}")
        else:
            await person.login(again.user_id)
        return person

    yield enter
    for person in people:
        await person.close()


@pytest.fixture
async def ours(servers: Lab, tmp_path: Path) -> AsyncIterator[OurEntry]:
    """Registers a client of our own library, over TLS, or logs one in as another device."""
    clients: list[Client] = []

    async def enter(name: str, server: str = "hs1", *, again: Client | None = None) -> Client:
        begin = Client.register if again is None else Client.login
        user = f"{name}-{secrets.token_hex(3)}" if again is None else again.user_id
        client = await begin(
            servers.topology.server(server).tls_url,
            user,
            PASSWORD,
            store_path=tmp_path / f"ours-{len(clients)}.sqlite",
            store_key=secrets.token_bytes(32),
            ssl=client_context(servers.authority_path),
        )
        clients.append(client)
        return client

    yield enter
    for client in clients:
        await client.close()
