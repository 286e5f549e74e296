"""The connection that writes the log, with its session.

Errors are those of the driver (`database.translated`) or DatabaseUnavailable.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver import limits
from homeserver.storage import batches, logs
from homeserver.storage.batches import Writing
from homeserver.storage.database import Connection, Database
from homeserver.storage.logs import LogTable
from homeserver.storage.timeline import events


class LogWriter(LogTable):
    """The log's row, and the connection that commits: it isn't one of the pool, so that its session
    can be ended before the outcome of a lost commit is read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._connection: Connection | None = None
        self._session = 0  # of the connection above, as PostgreSQL numbers it

    async def write(self, batch: Writing, epoch: int) -> bool:
        """See `batches.write`."""
        return await batches.write(await self._connected(), batch, epoch)

    async def abandon(self) -> int:
        """Gives up the connection; returns its session, for `settled_position`."""
        lost = self._session
        await self.disconnect()
        return lost

    async def settled_position(self, epoch: int, lost: int) -> int | None:
        """Returns the position after a lost connection, once its session can't commit any more;
        None if the log isn't ours."""
        connection = await self._connected()
        await logs.end_session(connection, lost, limits.LOG_SESSION_END_S)
        async with connection.transaction():
            return await logs.position_once_settled(connection, epoch)

    async def any_placed(self, rows: Sequence[tuple[int, int, bool]]) -> bool:
        """See `storage.timeline.events.any_placed`."""
        return await events.any_placed(await self._connected(), rows)

    async def disconnect(self) -> None:
        """Closes the connection; the next use opens another."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.dedicated()
            self._session = self._connection.get_server_pid()
        return self._connection
