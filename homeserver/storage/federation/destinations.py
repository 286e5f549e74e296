"""The cursor and the back-off of each other server.

Rules:
1. A cursor never goes back: a late save of an older one changes the back-off alone.

`DestinationTable` is the DestinationStore of `federation.ports`. Owns the table `destinations`.
"""

from __future__ import annotations

from federation.events.ids import ServerName
from federation.ports import Destination
from homeserver.storage.database import Database

_COLUMNS = "server, position, failing_since_ms, retry_at_ms, interval_ms, last_error"
NOTHING_OWED = -1


class DestinationTable:
    """The other servers that were owed anything."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load_destination(self, server: ServerName) -> Destination:
        """Returns the stored state of a destination; cursor -1 if there is none."""
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS} FROM destinations WHERE server = $1", server
        )
        return Destination(server, NOTHING_OWED) if row is None else Destination(*row)

    async def lagging(self) -> list[Destination]:
        """Returns all destinations, since only the feed knows the log's end; those in back-off
        first."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM destinations ORDER BY retry_at_ms NULLS LAST, server"
        )
        return [Destination(*row) for row in rows]

    async def save_destination(self, destination: Destination) -> None:
        """Stores a destination's cursor and back-off; durable when it returns."""
        await self._database.execute(
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
