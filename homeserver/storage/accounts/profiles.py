"""The table `profiles`: a JSON value for each key of a user's profile."""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver.storage.database import Connection


async def load(connection: Connection, user_id: UserId) -> dict[str, bytes] | None:
    """Returns a user's whole profile, key to JSON; None if there is no such active account."""
    rows = await connection.fetch(
        "SELECT key, value FROM accounts LEFT JOIN profiles USING (user_id)"
        " WHERE user_id = $1 AND NOT is_deactivated",
        user_id,
    )
    if not rows:
        return None
    return {row["key"]: row["value"] for row in rows if row["key"] is not None}


_SAVE = """
INSERT INTO profiles (user_id, key, value)
SELECT $1, $2::text, $3::bytea
WHERE octet_length($2::text) + octet_length($3::bytea) + coalesce((
    SELECT sum(octet_length(key) + octet_length(value))
    FROM profiles WHERE user_id = $1 AND key <> $2::text), 0) <= $4
ON CONFLICT (user_id, key) DO UPDATE SET value = excluded.value
RETURNING true
"""


async def save(
    connection: Connection, user_id: UserId, key: str, value: bytes, *, bytes_max: int
) -> bool:
    """Sets a key. Returns False if the profile would be larger than `bytes_max`."""
    return bool(await connection.fetchval(_SAVE, user_id, key, value, bytes_max))


async def delete(connection: Connection, user_id: UserId, key: str | None) -> None:
    """Removes a key (None: all)."""
    await connection.execute(
        "DELETE FROM profiles WHERE user_id = $1 AND ($2::text IS NULL OR key = $2)", user_id, key
    )
