"""The pool of connections to PostgreSQL, and what its errors mean to us.

Rules:
1. `asyncpg` is imported in `homeserver.storage` alone; other layers see `Connection`, `Database`
   and the two errors below.
2. Storage functions take an open connection; who calls them owns the transaction.
3. A lost database is `DatabaseUnavailable`: the caller answers 503 and tries again later. So is
   one that has no space, or can't do what it is asked for a reason that isn't the data
   (`DatabaseFailing`). Data that PostgreSQL refuses is `DataRefused`: trying again would not help.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from homeserver import limits

Connection: TypeAlias = "asyncpg.Connection[Any]"
Row: TypeAlias = Mapping[str, Any]
"""A row by column names (asyncpg's records are such)."""


LOG_APPLICATION = "freehold log"
"""The name under which PostgreSQL knows the connection that writes the log."""


class DatabaseUnavailable(Exception):
    """The database can't be reached, or the connection was lost; it may be back soon."""


class DatabaseFailing(DatabaseUnavailable):
    """The database answers, but can't do what it was asked now: its disk is full or broken, it was
    told to stop the statement, it only takes reads. Nothing of the transaction is stored."""


class DataRefused(Exception):
    """The database refused the data (a constraint, a type): repeating it would not help."""


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver meets on a connection that is dying
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
    OSError,
    TimeoutError,
)


_FAILING = (
    asyncpg.InsufficientResourcesError,  # disk full, out of memory
    asyncpg.OperatorInterventionError,  # a statement that was cancelled
    asyncpg.PostgresSystemError,  # an input or output error
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a full disk's emergency stop
)
"""Errors with which the database says that a transaction came to nothing, whatever its data."""


def translated(error: BaseException) -> Exception | None:
    """Our error for one of the driver's, else None."""
    if isinstance(error, _LOST):
        return DatabaseUnavailable(f"{type(error).__name__}: {error}")
    if isinstance(error, _FAILING):
        # After a fatal error the session is gone, and what became of the transaction isn't told.
        is_listed = error.severity_en not in ("FATAL", "PANIC")
        kind = DatabaseFailing if is_listed else DatabaseUnavailable
        return kind(f"{type(error).__name__}: {error}")
    if isinstance(error, asyncpg.PostgresError):
        return DataRefused(f"{type(error).__name__}: {error}")
    return None


async def _keep_session(connection: Connection) -> None:
    """Nothing here changes a session's settings, so a release needs no round trip to undo it."""


class Database:
    """A pool with a bounded number of connections and bounded waits."""

    def __init__(self, pool: asyncpg.Pool[Any], url: str) -> None:
        self._pool = pool
        self.url = url

    @classmethod
    async def open(cls, url: str, *, connections: int = limits.DATABASE_CONNECTIONS) -> Database:
        """Connects; raises DatabaseUnavailable when that fails."""
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections,
                command_timeout=limits.DATABASE_COMMAND_S,
                max_inactive_connection_lifetime=300,
                reset=_keep_session,
                server_settings={"application_name": "freehold", "jit": "off"},
            )
        except (*_LOST, asyncpg.PostgresError) as error:
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error
        return cls(pool, url)

    async def close(self) -> None:
        """Waits a short while for connections in use, then ends them all."""
        try:
            await asyncio.wait_for(self._pool.close(), limits.DATABASE_CLOSE_S)
        except (TimeoutError, *_LOST):
            self._pool.terminate()

    async def dedicated(self) -> Connection:
        """A connection outside of the pool, for one owner. Raises DatabaseUnavailable."""
        try:
            return await asyncpg.connect(
                self.url,
                timeout=limits.DATABASE_WAIT_S,
                command_timeout=limits.DATABASE_COMMAND_S,
                server_settings={"application_name": LOG_APPLICATION, "jit": "off"},
            )
        except (*_LOST, asyncpg.PostgresError) as error:
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for reads. Raises DatabaseUnavailable or DataRefused."""
        try:
            connection = await self._pool.acquire(timeout=limits.DATABASE_WAIT_S)
            try:
                yield connection  # the proxy has a connection's methods
            finally:
                await self._pool.release(connection, timeout=limits.DATABASE_RELEASE_S)
        except Exception as error:
            ours = translated(error)
            if ours is None:
                raise
            raise ours from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection with an open transaction that commits at the end of the block."""
        async with self.connection() as connection, connection.transaction():
            yield connection
