"""Account data: the latest content for each user, room ("" for global) and type. Owns
`account_data`.

Spec: client-server API, "Client config".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database


class AccountData(msgspec.Struct, frozen=True):
    """One item, with the position of its last change. `content` is JSON."""

    room_id: str
    type: str
    content: bytes
    position: int


class AccountDataRow(Protocol):
    """The fields of a log entry that `append` stores; the log's entries belong to a layer above."""

    @property
    def user_id(self) -> UserId: ...

    @property
    def room_id(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def content(self) -> bytes: ...


async def append(connection: Connection, rows: Sequence[tuple[int, AccountDataRow]]) -> None:
    """Stores the entries of a batch; the last of equal keys wins."""
    latest = {(e.user_id, e.room_id, e.type): (position, e.content) for position, e in rows}
    await connection.execute(
        "INSERT INTO account_data (user_id, room_id, type, content, position)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[])"
        " ON CONFLICT (user_id, room_id, type)"
        " DO UPDATE SET content = excluded.content, position = excluded.position",
        [key[0] for key in latest],
        [key[1] for key in latest],
        [key[2] for key in latest],
        [content for _, content in latest.values()],
        [position for position, _ in latest.values()],
    )


async def load(
    connection: Connection, user_id: UserId, room_id: str, data_type: str
) -> bytes | None:
    """Returns the content of one item as JSON, or None."""
    content: bytes | None = await connection.fetchval(
        "SELECT content FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3",
        user_id,
        room_id,
        data_type,
    )
    return content


async def count(connection: Connection, user_id: UserId) -> int:
    """Returns the number of a user's items."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM account_data WHERE user_id = $1", user_id
    )
    return found


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Deletes all of a user's account data, and the filters that their clients stored."""
    for table in ("account_data", "filters"):
        await connection.execute(f"DELETE FROM {table} WHERE user_id = $1", user_id)


class AccountDataTable:
    """The account data of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId, room_id: str, data_type: str) -> bytes | None:
        """Returns the content of one item as JSON, or None."""
        async with self._database.connection() as connection:
            return await load(connection, user_id, room_id, data_type)

    async def of_users(self, user_ids: Collection[UserId], data_type: str) -> dict[UserId, bytes]:
        """Returns the global item of this type of those users who have one."""
        rows = await self._database.fetch(
            "SELECT user_id, content FROM account_data"
            " WHERE user_id = ANY($1::text[]) AND room_id = '' AND type = $2",
            list(user_ids),
            data_type,
        )
        return {UserId(row[0]): row[1] for row in rows}

    async def load_between(self, user_id: UserId, *, after: int, up_to: int) -> list[AccountData]:
        """Returns a user's items whose last change has after < position <= up_to, in order."""
        rows = await self._database.fetch(
            "SELECT room_id, type, content, position FROM account_data"
            " WHERE user_id = $1 AND position > $2 AND position <= $3 ORDER BY position",
            user_id,
            after,
            up_to,
        )
        return [AccountData(*row) for row in rows]
