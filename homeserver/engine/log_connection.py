"""The connection that writes the log, and what became of a batch when it broke.

Rules:
1. Nobody else writes over it; it is made anew when it is lost.
2. Before the log's row is asked whether a batch is in, the lost session is ended: what was sent to
   it, and is perhaps still on its way, can't commit afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from homeserver import limits
from homeserver.engine.batch import Batch, write_batch
from homeserver.storage import logs
from homeserver.storage.database import Connection, Database, DatabaseUnavailable, translated

Fault = Callable[[str], Awaitable[None]]


class LogLost(Exception):
    """Another process owns the log now; this one must not serve any more."""


class LogConnection:
    """The owner's connection to its log."""

    def __init__(self, database: Database, epoch: int) -> None:
        self._database = database
        self._epoch = epoch
        self._connection: Connection | None = None
        self._session = 0  # of the connection, as PostgreSQL numbers it
        self._is_closing = False

    async def write(self, batch: Batch, fault: Fault | None) -> None:
        """Commits a batch. Raises LogLost; DatabaseUnavailable, after which `is_in` tells whether
        it is stored; or what the batch's own work raised. Tests cut the line in `fault`."""
        connection = await self._connected()
        try:
            if fault is not None:
                await fault("before")
            moved = await write_batch(connection, batch, self._epoch)
            if fault is not None:
                await fault("after")
        except Exception as error:
            ours = translated(error)
            if ours is None:
                raise
            raise ours from error
        if not moved:
            raise LogLost

    async def is_in(self, batch: Batch) -> bool:
        """After a lost connection: did the batch commit? Waits until the database can say. Raises
        LogLost."""
        lost_session = self._session
        self._drop()
        if not batch.sent:
            return False
        delay_s = 0.05
        while True:
            try:
                position = await self._position_after(lost_session)
                break
            except Exception as error:
                if translated(error) is None and not isinstance(error, DatabaseUnavailable):
                    raise
                self._drop()
                if self._is_closing:
                    return False
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, limits.RECONNECT_S_MAX)
        if position is None:
            raise LogLost
        assert position in (batch.old, batch.upto), "the log moves from batch to batch"
        return bool(position == batch.upto and batch.upto > batch.old)

    def stop_asking(self) -> None:
        """The server stops: what can't be known soon is not waited for."""
        self._is_closing = True

    def close(self) -> None:
        """Ends the connection."""
        self._drop()

    async def _position_after(self, lost_session: int) -> int | None:
        """The log's position once nothing sent to a lost session can change it; None: not ours."""
        connection = await self._connected()
        await logs.end_session(connection, lost_session, limits.LOG_SESSION_END_S)
        async with connection.transaction():
            return await logs.position_once_settled(connection, self._epoch)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.dedicated()
            self._session = self._connection.get_server_pid()
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()
