"""Cross-signing keys of local users: master, self_signing and user_signing. Owns
`cross_signing_keys`.

Spec: client-server API, "Cross-signing".
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database


class CrossSigningKey(msgspec.Struct, frozen=True):
    """One key: `public_key` is unpadded base64, `key` the JSON as uploaded."""

    usage: str
    public_key: str
    key: bytes


async def store(connection: Connection, user_id: UserId, key: CrossSigningKey) -> None:
    """Sets a user's key of one usage; signatures on a replaced master key are deleted with it."""
    await connection.execute(
        "DELETE FROM key_signatures WHERE user_id = $1 AND target IN"
        " (SELECT public_key FROM cross_signing_keys"
        "  WHERE user_id = $1 AND usage = $2 AND public_key <> $3)",
        user_id,
        key.usage,
        key.public_key,
    )
    await connection.execute(
        "INSERT INTO cross_signing_keys (user_id, usage, public_key, key) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (user_id, usage)"
        " DO UPDATE SET public_key = excluded.public_key, key = excluded.key",
        user_id,
        key.usage,
        key.public_key,
        key.key,
    )


async def load(
    connection: Connection, user_ids: Collection[UserId]
) -> dict[UserId, dict[str, CrossSigningKey]]:
    """Returns the keys of users by usage."""
    rows = await connection.fetch(
        "SELECT user_id, usage, public_key, key FROM cross_signing_keys"
        " WHERE user_id = ANY($1::text[])",
        list(user_ids),
    )
    found: dict[UserId, dict[str, CrossSigningKey]] = {}
    for row in rows:
        found.setdefault(UserId(row[0]), {})[row[1]] = CrossSigningKey(row[1], row[2], row[3])
    return found


async def delete(connection: Connection, user_id: UserId, usages: Collection[str]) -> None:
    """Removes a user's keys of these usages."""
    await connection.execute(
        "DELETE FROM cross_signing_keys WHERE user_id = $1 AND usage = ANY($2::text[])",
        user_id,
        list(usages),
    )


class CrossSigningKeyTable:
    """The cross-signing keys of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId) -> dict[str, CrossSigningKey]:
        """Returns a user's keys by usage."""
        async with self._database.connection() as connection:
            return (await load(connection, [user_id])).get(user_id, {})
