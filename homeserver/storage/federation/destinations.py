"""The cursor and the back-off of each other server.

Rules:
1. A cursor never goes back: a late save of an older one changes the back-off alone.

This is the DestinationStore of `federation.ports`. Owns the table `destinations`.
"""

from __future__ import annotations

from federation.events.ids import ServerName
from federation.ports import Destination
from homeserver.storage.database import Connection, Database

_COLUMNS = "server, position, failing_since_ms, retry_at_ms, interval_ms, last_error"
NOTHING_OWED = -1


async def load(connection: Connection, server: ServerName) -> Destination:
    """Returns the stored state of a destination; cursor -1 if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM destinations WHERE server = $1", server
    )
    return Destination(server, NOTHING_OWED) if row is None else Destination(*row)


async def load_all(connection: Connection) -> list[Destination]:
    """Returns every destination, those in back-off first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM destinations ORDER BY retry_at_ms NULLS LAST, server"
    )
    return [Destination(*row) for row in rows]


async def save(connection: Connection, destination: Destination) -> None:
    """Stores a destination's cursor and back-off."""
    await connection.execute(
        f"INSERT INTO destinations ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (server) DO UPDATE SET"
        " position = greatest(destinations.position, excluded.position),"
        " failing_since_ms = excluded.failing_since_ms, retry_at_ms = excluded.retry_at_ms,"
        " interval_ms = excluded.interval_ms, last_error = excluded.last_error",
        destination.server,
        destination.cursor,
        destination.failing_since_ms,
        destination.retry_at_ms,
        destination.interval_ms,
        destination.last_error,
    )


class Destinations:
    """The DestinationStore over a pool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load_destination(self, server: ServerName) -> Destination:
        """See `load`."""
        async with self._database.connection() as connection:
            return await load(connection, server)

    async def lagging(self) -> list[Destination]:
        """Returns all destinations that may be behind: only the feed knows the log's end."""
        async with self._database.connection() as connection:
            return await load_all(connection)

    async def save_destination(self, destination: Destination) -> None:
        """See `save`; durable when it returns."""
        async with self._database.connection() as connection:
            await save(connection, destination)
