"""Fixtures that every test may use: a real PostgreSQL, and a fresh database in it for each test.

1. One embedded cluster for each test process (worker), made on first use, in a temporary folder; it
   runs with `fsync = off`, which no test can tell from on unless it cuts the machine's power.
2. `postgres_url` is an empty database of its own for each test, with its own role (no superuser),
   as a server has it. It is dropped afterwards.
3. Whatever a test's server says is held to the specification's schemas (`tests.spec.witness`).
"""

import asyncio
import logging
import secrets
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from local_postgres import EmbeddedCluster
from tests.spec import witness
from tests.spec.spec_files import SPEC

T = TypeVar("T")
FAST = {"fsync": "off", "full_page_writes": "off", "wal_compression": "off"}
CALL_TIMEOUT_S = 60


@pytest.fixture(scope="session", autouse=True)
def _watched_servers() -> Iterator[None]:
    """Watch every server of this process."""
    with pytest.MonkeyPatch.context() as patch:
        if SPEC:
            witness.install(patch)
        yield


@pytest.fixture(autouse=True)
def _specification(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose server said what doesn't fit the specification."""
    witness.take_faults()
    yield
    faults = witness.take_faults()
    if faults and request.node.get_closest_marker("off_spec") is None:
        pytest.fail("said off the specification:\n" + "\n".join(faults[:10]), pytrace=False)


class BackgroundLoop:
    """An event loop in a thread of its own, which lives as long as the test process needs it.

    The postmaster is bound to the life of the thread that starts it, so it can't be a test's loop.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine, run in that thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()


@pytest.fixture(scope="session")
def background_loop() -> Iterator[BackgroundLoop]:
    """Yield an event loop that runs for the whole session, beside the tests'."""
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """Yield a temporary folder that other accounts can pass through (pytest's own are closed)."""
    folder = Path(tempfile.mkdtemp(prefix="freehold-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_cluster(background_loop: BackgroundLoop) -> Iterator[EmbeddedCluster]:
    """Yield the test process's embedded cluster, running."""
    folder = Path(tempfile.mkdtemp(prefix="freehold-test-"))
    folder.chmod(0o711)
    quiet = logging.getLogger("freehold.tests.embedded")
    quiet.setLevel(logging.ERROR)
    cluster = EmbeddedCluster(folder / "postgres", settings=FAST, log=quiet)
    background_loop.run(cluster.start())
    yield cluster
    background_loop.run(cluster.stop())
    shutil.rmtree(folder, ignore_errors=True)


async def drop_database(cluster: EmbeddedCluster, name: str) -> None:
    """Drop a test's database and role; sessions still open are cut."""
    connection = await asyncpg.connect(cluster.superuser_dsn())
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"DROP ROLE IF EXISTS {name}")
    finally:
        await connection.close()


@pytest.fixture
async def postgres_url(postgres_cluster: EmbeddedCluster) -> AsyncIterator[str]:
    """Yield the address of an empty database that only this test uses."""
    name = f"t_{secrets.token_hex(8)}"
    yield await postgres_cluster.ensure_database(name)
    await drop_database(postgres_cluster, name)
