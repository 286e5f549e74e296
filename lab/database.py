"""The lab's PostgreSQL: one embedded cluster, or a given one, with a database for each server.

Rules:
1. The embedded cluster runs with fsync on and everything an operator would have; only compression
   of its log is off, so that the search for canaries sees all of it.
2. A given address (`--database`) must be of a role that may make databases; each server gets one
   there. Its raw files are out of reach, so only its tables are searched.
"""

import logging
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from local_postgres import EmbeddedCluster
from local_postgres.binaries import MAJOR_OLDEST

SETTINGS = {"wal_compression": "off"}
CONNECT_TIMEOUT_S = 10.0
LOG = logging.getLogger("freehold.lab")


class LabDatabase(Protocol):
    """The interface of the lab's PostgreSQL."""

    async def start(self) -> None:
        """Makes it ready."""

    async def stop(self) -> None:
        """Ends what was started."""

    async def address_of(self, name: str) -> str:
        """Returns a server's database address, made if missing."""

    def operator_address(self, name: str) -> str:
        """Returns the address by which an operator reads a whole database."""

    def raw_folder(self) -> Path | None:
        """Returns the folder of the raw files, if it is within reach."""

    def log_path(self) -> Path | None:
        """Returns PostgreSQL's own log, if it is within reach."""


class EmbeddedDatabase:
    """The embedded cluster of a lab's folder."""

    def __init__(self, folder: Path, binaries: Path | None = None) -> None:
        """Prepares; nothing is touched before `start`."""
        self._cluster = EmbeddedCluster(folder, binaries=binaries, settings=SETTINGS, log=LOG)

    async def start(self) -> None:
        """Starts the cluster; made on first use."""
        await self._cluster.start()

    async def stop(self) -> None:
        """Ends the cluster."""
        await self._cluster.stop()

    async def address_of(self, name: str) -> str:
        """Returns the address of a server's own role and database."""
        return await self._cluster.ensure_database(name)

    def operator_address(self, name: str) -> str:
        """Returns the superuser's address of a database."""
        return self._cluster.superuser_dsn(name)

    def raw_folder(self) -> Path | None:
        """Returns PostgreSQL's data folder."""
        return self._cluster.cluster_dir

    def log_path(self) -> Path | None:
        """Returns PostgreSQL's log."""
        return self._cluster.log_path


class GivenDatabase:
    """A PostgreSQL that somebody else runs, by the address of a role that may make databases."""

    def __init__(self, address: str) -> None:
        """Keeps the address."""
        self._address = address

    async def start(self) -> None:
        """Checks that it answers and is new enough. Raises ConnectionError."""
        try:
            connection = await asyncpg.connect(self._address, timeout=CONNECT_TIMEOUT_S)
        except (OSError, asyncpg.PostgresError, ValueError, TimeoutError) as problem:
            raise ConnectionError(f"the given database does not answer: {problem}") from problem
        try:
            version = connection.get_server_version()
            if version.major < MAJOR_OLDEST:
                raise ConnectionError(
                    f"PostgreSQL {MAJOR_OLDEST} or newer is needed; this is {version.major}"
                )
        finally:
            await connection.close()

    async def stop(self) -> None:
        """Leaves it running."""

    async def address_of(self, name: str) -> str:
        """Returns the address of a server's database, made if missing."""
        connection = await asyncpg.connect(self._address, timeout=CONNECT_TIMEOUT_S)
        try:
            known = "SELECT true FROM pg_database WHERE datname = $1"
            if not await connection.fetchval(known, name):
                await connection.execute(
                    f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' "
                    "LC_COLLATE 'C' LC_CTYPE 'C'"
                )
        finally:
            await connection.close()
        return with_database(self._address, name)

    def operator_address(self, name: str) -> str:
        """Returns the address of a database, by the given role."""
        return with_database(self._address, name)

    def raw_folder(self) -> Path | None:
        """Returns nothing: its files are somebody else's."""
        return None

    def log_path(self) -> Path | None:
        """Returns nothing: its log is somebody else's."""
        return None


def with_database(address: str, name: str) -> str:
    """Returns a PostgreSQL address with another database in it."""
    parts = urlsplit(address)
    path = f"/{quote(name)}"
    if not parts.netloc:  # urlunsplit would drop the empty host of postgresql:///name?host=/socket
        query = f"?{parts.query}" if parts.query else ""
        return f"{parts.scheme}://{path}{query}"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
