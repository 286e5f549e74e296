"""EDUs that must reach another server (messages to devices): stored until it has received them.

Spec: server-server API, "Send-to-device messaging".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from federation.events.ids import ServerName
from homeserver.storage.database import Connection


class RemoteEduRow(Protocol):
    """The fields of a log entry that `append` reads."""

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


async def load(
    connection: Connection, destination: ServerName, *, after: int, up_to: int, limit: int
) -> list[tuple[int, bytes]]:
    """Returns the oldest `limit` EDUs (position, JSON) for a server with after < position <=
    up_to.
    """
    rows = await connection.fetch(
        "SELECT position, edu FROM remote_edus WHERE destination = $1"
        " AND position > $2 AND position <= $3 ORDER BY position LIMIT $4",
        destination,
        after,
        up_to,
        limit,
    )
    return [(row[0], row[1]) for row in rows]


async def delete(connection: Connection, destination: ServerName, up_to: int) -> None:
    """Deletes the EDUs that a server has received: all up to a position."""
    await connection.execute(
        "DELETE FROM remote_edus WHERE destination = $1 AND position <= $2", destination, up_to
    )


async def destinations(connection: Connection) -> list[ServerName]:
    """Returns the servers with waiting EDUs."""
    rows = await connection.fetch("SELECT DISTINCT destination FROM remote_edus")
    return [ServerName(row[0]) for row in rows]
