"""Filters that clients stored. Equal ones of a user are stored once. Owns `filters`.

A filter never changes.

Spec: client-server API, "Filtering".
"""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver.storage.database import Database


class FilterTable:
    """The stored filters of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, user_id: UserId, content: bytes, *, at_most: int) -> int | None:
        """Returns the ID of a filter (JSON), an existing one if it is equal; None if the user has
        `at_most` other ones."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 3))", user_id
            )
            known: int | None = await connection.fetchval(
                "SELECT filter_id FROM filters WHERE user_id = $1 AND content = $2",
                user_id,
                content,
            )
            if known is not None:
                return known
            filter_id: int | None = await connection.fetchval(
                "INSERT INTO filters (user_id, filter_id, content) SELECT $1, n.next, $2"
                " FROM (SELECT count(*) AS next FROM filters WHERE user_id = $1) n"
                " WHERE n.next < $3 RETURNING filter_id",
                user_id,
                content,
                at_most,
            )
        return filter_id

    async def load(self, user_id: UserId, filter_id: int) -> bytes | None:
        """Returns a stored filter as JSON, or None."""
        content: bytes | None = await self._database.fetchval(
            "SELECT content FROM filters WHERE user_id = $1 AND filter_id = $2", user_id, filter_id
        )
        return content
