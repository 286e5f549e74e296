"""Push rules that users made or changed, as JSON. Owns `push_rules`.

Spec: client-server API, "Push Rules".
"""

from __future__ import annotations

from collections.abc import Collection

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database


async def load(connection: Connection, user_id: UserId) -> bytes | None:
    """Returns a user's changes of the default rules; None if there are none."""
    rules: bytes | None = await connection.fetchval(
        "SELECT rules FROM push_rules WHERE user_id = $1", user_id
    )
    return rules


async def store(connection: Connection, user_id: UserId, rules: bytes) -> None:
    """Replaces a user's changes."""
    await connection.execute(
        "INSERT INTO push_rules (user_id, rules) VALUES ($1, $2)"
        " ON CONFLICT (user_id) DO UPDATE SET rules = excluded.rules",
        user_id,
        rules,
    )


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Deletes a user's changes."""
    await connection.execute("DELETE FROM push_rules WHERE user_id = $1", user_id)


class PushRuleTable:
    """The changes of all users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId) -> bytes | None:
        """Returns a user's changes; None if there are none."""
        async with self._database.connection() as connection:
            return await load(connection, user_id)

    async def of_users(self, user_ids: Collection[UserId]) -> dict[UserId, bytes]:
        """Returns the changes of those users who have any."""
        rows = await self._database.fetch(
            "SELECT user_id, rules FROM push_rules WHERE user_id = ANY($1::text[])", list(user_ids)
        )
        return {UserId(row[0]): row[1] for row in rows}
