"""The table `profiles`: a JSON value for each key of a user's profile."""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database

_SAVE = """
INSERT INTO profiles (user_id, key, value)
SELECT $1, $2::text, $3::bytea
WHERE octet_length($2::text) + octet_length($3::bytea) + coalesce((
    SELECT sum(octet_length(key) + octet_length(value))
    FROM profiles WHERE user_id = $1 AND key <> $2::text), 0) <= $4
ON CONFLICT (user_id, key) DO UPDATE SET value = excluded.value
RETURNING true
"""


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Deletes a user's whole profile."""
    await connection.execute("DELETE FROM profiles WHERE user_id = $1", user_id)


class ProfileTable:
    """The profiles of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId) -> dict[str, bytes] | None:
        """Returns a user's whole profile, key to JSON; None if there is no such active account."""
        rows = await self._database.fetch(
            "SELECT key, value FROM accounts LEFT JOIN profiles USING (user_id)"
            " WHERE user_id = $1 AND NOT is_deactivated",
            user_id,
        )
        if not rows:
            return None
        return {row["key"]: row["value"] for row in rows if row["key"] is not None}

    async def save(self, user_id: UserId, key: str, value: bytes, *, bytes_max: int) -> bool:
        """Sets a key. Returns False if the profile would be larger than `bytes_max`; nothing is
        stored then."""
        return bool(await self._database.fetchval(_SAVE, user_id, key, value, bytes_max))

    async def delete(self, user_id: UserId, key: str) -> None:
        """Removes a key; a key that isn't set is not an error."""
        await self._database.execute(
            "DELETE FROM profiles WHERE user_id = $1 AND key = $2", user_id, key
        )
