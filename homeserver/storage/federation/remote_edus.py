"""EDUs that must reach another server (messages to devices): stored until it has received them.
Owns `remote_edus`.

Spec: server-server API, "Send-to-device messaging".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from federation.events.ids import ServerName
from homeserver.storage.database import Connection, Database


class RemoteEduRow(Protocol):
    """The fields of a log entry that `append` stores; the log's entries belong to a layer above."""

    @property
    def destination(self) -> ServerName: ...

    @property
    def edu(self) -> bytes: ...


async def append(connection: Connection, rows: Sequence[tuple[int, RemoteEduRow]]) -> None:
    """Stores the entries of a batch."""
    await connection.execute(
        "INSERT INTO remote_edus (destination, position, edu)"
        " SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[])",
        [entry.destination for _, entry in rows],
        [position for position, _ in rows],
        [entry.edu for _, entry in rows],
    )


class RemoteEduTable:
    """The EDUs that wait for other servers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(
        self, destination: ServerName, *, after: int, up_to: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """Returns the oldest `limit` EDUs (position, JSON) for a server with after < position <=
        up_to.
        """
        rows = await self._database.fetch(
            "SELECT position, edu FROM remote_edus WHERE destination = $1"
            " AND position > $2 AND position <= $3 ORDER BY position LIMIT $4",
            destination,
            after,
            up_to,
            limit,
        )
        return [(row[0], row[1]) for row in rows]

    async def delete(self, destination: ServerName, up_to: int) -> None:
        """Deletes the EDUs that a server has received: all up to a position."""
        await self._database.execute(
            "DELETE FROM remote_edus WHERE destination = $1 AND position <= $2", destination, up_to
        )

    async def load_destinations(self) -> list[ServerName]:
        """Returns the servers with waiting EDUs."""
        rows = await self._database.fetch("SELECT DISTINCT destination FROM remote_edus")
        return [ServerName(row[0]) for row in rows]
