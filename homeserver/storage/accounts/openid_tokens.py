"""The table `openid_tokens`: SHA-256 hashes of tokens that prove who a user is."""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver.storage.database import Connection, Database


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Deletes all tokens of a user."""
    await connection.execute("DELETE FROM openid_tokens WHERE user_id = $1", user_id)


class OpenIdTokenTable:
    """The OpenID tokens of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, user_id: UserId, token_hash: bytes, *, now_ms: int, expires_ms: int, tokens_max: int
    ) -> None:
        """Stores a token; expired ones of the user go, and the oldest beyond `tokens_max`."""
        await self._database.execute(
            "WITH gone AS (DELETE FROM openid_tokens WHERE user_id = $2 AND (expires_ms <= $4"
            " OR hash IN (SELECT hash FROM openid_tokens WHERE user_id = $2"
            " ORDER BY expires_ms DESC, hash OFFSET $5)))"
            " INSERT INTO openid_tokens (hash, user_id, expires_ms) VALUES ($1, $2, $3)",
            token_hash,
            user_id,
            expires_ms,
            now_ms,
            tokens_max - 1,
        )

    async def load(self, token_hash: bytes, now_ms: int) -> UserId | None:
        """Returns the user of a token; None for an unknown or expired one, and for a user whose
        account is locked or deactivated."""
        found = await self._database.fetchval(
            "SELECT user_id FROM openid_tokens JOIN accounts USING (user_id)"
            " WHERE hash = $1 AND expires_ms > $2 AND NOT is_locked AND NOT is_deactivated",
            token_hash,
            now_ms,
        )
        return None if found is None else UserId(found)
