"""The table `sso_users`: users as providers of single sign-on know them."""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database


async def add(connection: Connection, provider: str, subject: str, user_id: UserId) -> bool:
    """Notes who somebody is here. Returns False if the provider's user is known already."""
    added = await connection.fetchval(
        "INSERT INTO sso_users (provider, subject, user_id) VALUES ($1, $2, $3)"
        " ON CONFLICT DO NOTHING RETURNING true",
        provider,
        subject,
        user_id,
    )
    return bool(added)


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Forgets how providers know a user."""
    await connection.execute("DELETE FROM sso_users WHERE user_id = $1", user_id)


class SsoUserTable:
    """The users that providers know."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, provider: str, subject: str) -> UserId | None:
        """Returns the user whom a provider names so."""
        found = await self._database.fetchval(
            "SELECT user_id FROM sso_users WHERE provider = $1 AND subject = $2", provider, subject
        )
        return None if found is None else UserId(found)

    async def is_known(self, user_id: UserId) -> bool:
        """Returns whether a provider knows a user."""
        found = await self._database.fetchval(
            "SELECT true FROM sso_users WHERE user_id = $1 LIMIT 1", user_id
        )
        return bool(found)
