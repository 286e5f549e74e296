"""The pool of connections to PostgreSQL, and the translation of its errors.

Rules:
1. `asyncpg` is imported only in `homeserver.storage`; other layers see `Connection`, `Database` and
   the two errors below.
2. A module that owns tables has one class over a `Database`. Each of its methods takes a connection
   of the pool for itself; what it writes is one transaction, which is committed when it returns. A
   service is given the `Database`, and makes the tables that it needs.
3. The other functions of such a module take an open connection as their first argument. They run
   inside a transaction of their caller, which decides between the statements, or commits them
   together with others: a unit of the log, or a service.
4. Rows leave a module as structs.
5. A lost database is `DatabaseUnavailable`: the caller answers 503 and tries again later. So is one
   without free space, or one that fails for another reason than the data (`DatabaseFailing`). Data
   that PostgreSQL refuses is `DataRefused`: a retry would not help.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg

from homeserver import limits

Connection: TypeAlias = "asyncpg.Connection[Any]"
Row: TypeAlias = Mapping[str, Any]
"""A row by column names (such as asyncpg's records)."""


LOG_APPLICATION = "freehold log"
"""The application name of the connection that writes the log."""


class DatabaseUnavailable(Exception):
    """The database can't be reached, or the connection was lost; it may return soon."""


class DatabaseFailing(DatabaseUnavailable):
    """The database responds, but can't execute the statement now: its disk is full or broken, the
    statement was cancelled, or it is read-only. Nothing of the transaction is stored."""


class DataRefused(Exception):
    """The database refused the data (a constraint, a type): a retry would not help."""


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # errors of the driver on a failing connection
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
    asyncpg.OperatorInterventionError,  # A cancelled statement.
    asyncpg.PostgresSystemError,  # an input or output error
    asyncpg.ReadOnlySQLTransactionError,  # A standby, or the emergency stop on a full disk.
    asyncpg.DeadlockDetectedError,  # Two transactions wait for each other, and this one gave way.
)
"""Errors that mean that a transaction was rolled back, whatever its data."""


def translated(error: BaseException) -> Exception | None:
    """Returns our error for one of the driver's, else None."""
    if isinstance(error, _LOST):
        return DatabaseUnavailable(f"{type(error).__name__}: {error}")
    if isinstance(error, _FAILING):
        # After a fatal error the session is gone, and the outcome of the transaction is unknown.
        is_listed = error.severity_en not in ("FATAL", "PANIC")
        kind = DatabaseFailing if is_listed else DatabaseUnavailable
        return kind(f"{type(error).__name__}: {error}")
    if isinstance(error, asyncpg.PostgresError):
        return DataRefused(f"{type(error).__name__}: {error}")
    return None


@contextmanager
def translating() -> Iterator[None]:
    """Turns the driver's errors into ours, on a connection outside of the pool."""
    try:
        yield
    except Exception as error:
        ours = translated(error)
        if ours is None:
            raise
        raise ours from error


async def _keep_session(connection: Connection) -> None:
    """Skips the reset: no session setting is changed here, so a release needs no round trip to undo
    it.
    """


class Database:
    """A pool with a bounded number of connections and bounded waits."""

    def __init__(self, pool: asyncpg.Pool[Any], url: str) -> None:
        self._pool = pool
        self.url = url

    @classmethod
    async def open(cls, url: str, *, connections: int = limits.DATABASE_CONNECTIONS) -> Database:
        """Connects; raises DatabaseUnavailable on failure."""
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections,
                command_timeout=limits.DATABASE_COMMAND_S,
                max_inactive_connection_lifetime=limits.DATABASE_IDLE_S,
                reset=_keep_session,
                server_settings={"application_name": "freehold", "jit": "off"},
            )
        except (*_LOST, asyncpg.PostgresError) as error:
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error
        return cls(pool, url)

    async def close(self) -> None:
        """Waits a short time for connections in use, then closes all."""
        try:
            await asyncio.wait_for(self._pool.close(), limits.DATABASE_CLOSE_S)
        except (TimeoutError, *_LOST):
            self._pool.terminate()

    async def dedicated(self, application: str = LOG_APPLICATION) -> Connection:
        """Opens a connection outside of the pool, for one owner; `application` is what PostgreSQL
        calls it. Raises DatabaseUnavailable."""
        try:
            return await asyncpg.connect(
                self.url,
                timeout=limits.DATABASE_WAIT_S,
                command_timeout=limits.DATABASE_COMMAND_S,
                server_settings={"application_name": application, "jit": "off"},
            )
        except (*_LOST, asyncpg.PostgresError) as error:
            raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for reads. Raises DatabaseUnavailable or DataRefused."""
        with translating():
            connection = await self._pool.acquire(timeout=limits.DATABASE_WAIT_S)
            try:
                yield connection  # the proxy has a connection's methods
            finally:
                await self._pool.release(connection, timeout=limits.DATABASE_RELEASE_S)

    async def fetch(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Executes one statement on a connection of the pool; returns all rows. Raises as
        `connection`, like the three below."""
        async with self.connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *values)
        return rows

    async def fetchrow(self, statement: str, *values: object) -> asyncpg.Record | None:
        """Executes one statement; returns its first row, None if there is none."""
        async with self.connection() as connection:
            return await connection.fetchrow(statement, *values)

    async def fetchval(self, statement: str, *values: object) -> Any:
        """Executes one statement; returns the first column of its first row, None if there is no
        row."""
        async with self.connection() as connection:
            return await connection.fetchval(statement, *values)

    async def execute(self, statement: str, *values: object) -> str:
        """Executes one statement; returns PostgreSQL's command tag ("DELETE 2")."""
        async with self.connection() as connection:
            tag: str = await connection.execute(statement, *values)
        return tag

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection with an open transaction that commits at the end of the block."""
        async with self.connection() as connection, connection.transaction():
            yield connection
