"""Opens a server's database for a command-line tool, beside the running server or without one.

Rules:
1. A running embedded cluster is used as it is; one that doesn't run is started, and stopped again.
2. Nothing of the log is taken over, so a running server isn't disturbed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from homeserver.config import Config
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from local_postgres import EmbeddedCluster, EmbeddedError
from local_postgres.attach import cluster_dir, running_url


@asynccontextmanager
async def read_only(config: Config) -> AsyncIterator[Database]:
    """Opens the database for reading. Raises EmbeddedError, also where there is no embedded
    database yet, or DatabaseUnavailable.
    """
    async with AsyncExitStack() as stack:
        url = config.database.url
        if url == "embedded":
            folder = Path(config.data_dir) / "postgresql"
            if cluster_dir(folder) is None:
                raise EmbeddedError(f"there is no database in {folder}")
            url = await _embedded_url(folder, stack)
        mark = "&" if "?" in url else "?"
        database = await Database.open(
            f"{url}{mark}default_transaction_read_only=on", connections=2
        )
        stack.push_async_callback(database.close)
        yield database


@asynccontextmanager
async def writable(config: Config) -> AsyncIterator[Database]:
    """Opens the database for changes, with its schema brought up to date; an embedded one is made
    where there is none. Raises EmbeddedError, DatabaseUnavailable or SchemaTooNew.
    """
    async with AsyncExitStack() as stack:
        url = config.database.url
        if url == "embedded":
            url = await _embedded_url(Path(config.data_dir) / "postgresql", stack)
        database = await Database.open(url, connections=2)
        stack.push_async_callback(database.close)
        await migrate(database)
        yield database


async def _embedded_url(folder: Path, stack: AsyncExitStack) -> str:
    running = running_url(folder, "freehold")
    if running is not None:
        return running
    cluster = EmbeddedCluster(folder)
    await cluster.start()
    stack.push_async_callback(cluster.stop)
    return await cluster.ensure_database("freehold")
