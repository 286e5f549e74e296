"""Aliases of this server and its published rooms. Owns `aliases` and `published_rooms`.

The primary key ensures that an alias names one room only, also with concurrent requests.
"""

from __future__ import annotations

import msgspec

from federation.events.ids import RoomAlias, RoomId, UserId
from homeserver.storage.database import Connection, Database


class AliasRow(msgspec.Struct, frozen=True):
    """A local alias, the room that it names and its creator."""

    alias: RoomAlias
    room_id: RoomId
    creator: UserId
    created_ms: int


async def insert_alias(connection: Connection, row: AliasRow) -> bool:
    """Adds an alias; returns False if the alias exists."""
    status: str = await connection.execute(
        "INSERT INTO aliases (alias, room_id, creator, created_ms) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (alias) DO NOTHING",
        row.alias,
        row.room_id,
        row.creator,
        row.created_ms,
    )
    return status.endswith(" 1")


async def count_aliases(connection: Connection, room_id: RoomId) -> int:
    """Returns the number of a room's aliases on this server."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM aliases WHERE room_id = $1", room_id
    )
    return found


async def move_aliases(connection: Connection, old: RoomId, new: RoomId) -> None:
    """Moves all aliases of one room to another (a room upgrade), and its publication."""
    await connection.execute("UPDATE aliases SET room_id = $2 WHERE room_id = $1", old, new)
    await connection.execute(
        "INSERT INTO published_rooms (room_id, published_by, published_ms)"
        " SELECT $2, published_by, published_ms FROM published_rooms WHERE room_id = $1"
        " ON CONFLICT (room_id) DO NOTHING",
        old,
        new,
    )
    await connection.execute("DELETE FROM published_rooms WHERE room_id = $1", old)


async def publish(connection: Connection, room_id: RoomId, user_id: UserId, now_ms: int) -> None:
    """Puts a room into the published directory; no change if it is already there."""
    await connection.execute(
        "INSERT INTO published_rooms (room_id, published_by, published_ms) VALUES ($1, $2, $3)"
        " ON CONFLICT (room_id) DO NOTHING",
        room_id,
        user_id,
        now_ms,
    )


class DirectoryTable:
    """The aliases of this server, and its published rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load_alias(self, alias: RoomAlias) -> AliasRow | None:
        """Returns the row of an alias, or None."""
        found = await self._database.fetchrow(
            "SELECT alias, room_id, creator, created_ms FROM aliases WHERE alias = $1", alias
        )
        return None if found is None else AliasRow(*found)

    async def delete_alias(self, alias: RoomAlias, room_id: RoomId) -> bool:
        """Removes an alias if it still names that room; else returns False."""
        status = await self._database.execute(
            "DELETE FROM aliases WHERE alias = $1 AND room_id = $2", alias, room_id
        )
        return status.endswith(" 1")

    async def load_aliases(self, room_id: RoomId) -> list[RoomAlias]:
        """Returns a room's aliases on this server, oldest first."""
        rows = await self._database.fetch(
            "SELECT alias FROM aliases WHERE room_id = $1 ORDER BY created_ms, alias", room_id
        )
        return [RoomAlias(row[0]) for row in rows]

    async def publish(self, room_id: RoomId, user_id: UserId, now_ms: int) -> None:
        """See the function `publish`."""
        async with self._database.connection() as connection:
            await publish(connection, room_id, user_id, now_ms)

    async def unpublish(self, room_id: RoomId) -> None:
        """Takes a room out of the published directory; no change if it isn't there."""
        await self._database.execute("DELETE FROM published_rooms WHERE room_id = $1", room_id)

    async def load_published(self, limit: int) -> list[RoomId]:
        """Returns the rooms in the published directory, the last published first."""
        rows = await self._database.fetch(
            "SELECT room_id FROM published_rooms ORDER BY published_ms DESC, room_id LIMIT $1",
            limit,
        )
        return [RoomId(row[0]) for row in rows]

    async def is_published(self, room_id: RoomId) -> bool:
        """Returns whether the room is in the published directory."""
        found = await self._database.fetchval(
            "SELECT true FROM published_rooms WHERE room_id = $1", room_id
        )
        return bool(found)
