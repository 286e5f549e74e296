"""The columns of `accounts` that restrict or raise a user, and the channel on which every process
that changes them tells the server.

A server keeps the holders of access tokens in memory. PostgreSQL delivers a notification with the
commit that it belongs to, so the server drops what it keeps at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum

import msgspec

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database, translating

_CHANNEL = "freehold_accounts"
_APPLICATION = "freehold accounts"


class AccountMark(Enum):
    """What an account can be marked as; the value is the column."""

    LOCKED = "is_locked"
    """Nothing but a log-out is possible."""
    SUSPENDED = "is_suspended"
    """The user can read, and leave."""
    ADMIN = "is_admin"
    """The user is a server administrator."""


class Standing(msgspec.Struct, frozen=True):
    """What an active account is marked as."""

    is_locked: bool
    is_suspended: bool
    is_admin: bool


async def announce(connection: Connection, user_id: UserId) -> None:
    """Tells all servers of this database, at the commit, that an account changed."""
    await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, user_id)


class ModerationTable:
    """The marks of local accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId) -> Standing | None:
        """Returns the marks of an active account; None if there is none."""
        row = await self._database.fetchrow(
            "SELECT is_locked, is_suspended, is_admin FROM accounts"
            " WHERE user_id = $1 AND NOT is_deactivated",
            user_id,
        )
        return None if row is None else Standing(*row)

    async def set(self, user_id: UserId, mark: AccountMark, value: bool) -> bool:
        """Sets a mark of an active account; False if there is none."""
        async with self._database.transaction() as connection:
            found = await connection.fetchval(
                f"UPDATE accounts SET {mark.value} = $2"
                " WHERE user_id = $1 AND NOT is_deactivated RETURNING true",
                user_id,
                value,
            )
            if found:
                await announce(connection, user_id)
        return bool(found)

    async def load_unfinished(self) -> list[UserId]:
        """Returns the deactivated users who still have devices, or rooms to leave."""
        rows = await self._database.fetch(
            "SELECT user_id FROM accounts a WHERE is_deactivated AND (EXISTS"
            " (SELECT FROM devices d WHERE d.user_id = a.user_id) OR EXISTS"
            " (SELECT FROM departures e WHERE e.user_id = a.user_id)) ORDER BY user_id"
        )
        return [UserId(row[0]) for row in rows]

    @asynccontextmanager
    async def listening(
        self, on_changed: Callable[[UserId], None]
    ) -> AsyncIterator[Callable[[], Awaitable[object]]]:
        """Calls `on_changed` for each announced account as long as the block lasts, over a
        connection of its own. Yields a coroutine function that checks the connection. It raises
        DatabaseUnavailable once announcements may have been missed."""

        def told(_connection: object, _process: int, _channel: str, text: object) -> None:
            on_changed(UserId(str(text)))

        async def check() -> None:
            with translating():
                await connection.execute("SELECT 1")

        connection = await self._database.dedicated(_APPLICATION)
        try:
            with translating():
                await connection.add_listener(_CHANNEL, told)
            yield check
        finally:
            connection.terminate()
