"""The table `registration_tokens`: tokens that allow registration."""

from __future__ import annotations

import msgspec

from homeserver.storage.database import Connection, Database


class RegistrationTokenRow(msgspec.Struct, frozen=True):
    """A token; `uses_allowed` and `expires_ms` are None for no bound."""

    token: str
    uses_allowed: int | None
    uses: int
    expires_ms: int | None


_USABLE = (
    "token = $1 AND (uses_allowed IS NULL OR uses < uses_allowed)"
    " AND (expires_ms IS NULL OR expires_ms > $2)"
)


async def use(connection: Connection, token: str, now_ms: int) -> bool:
    """Counts one use. Returns False if the token isn't usable (any more)."""
    found = await connection.fetchval(
        f"UPDATE registration_tokens SET uses = uses + 1 WHERE {_USABLE} RETURNING true",
        token,
        now_ms,
    )
    return bool(found)


class RegistrationTokenTable:
    """The registration tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def is_usable(self, token: str, now_ms: int) -> bool:
        """Returns whether a token exists, isn't used up and hasn't expired."""
        found = await self._database.fetchval(
            f"SELECT true FROM registration_tokens WHERE {_USABLE}", token, now_ms
        )
        return bool(found)

    async def load_all(self) -> list[RegistrationTokenRow]:
        """Returns all tokens, in order."""
        rows = await self._database.fetch(
            "SELECT token, uses_allowed, uses, expires_ms FROM registration_tokens ORDER BY token"
        )
        return [RegistrationTokenRow(*row) for row in rows]

    async def delete(self, token: str) -> bool:
        """Deletes a token; False if there is none of this name."""
        found = await self._database.fetchval(
            "DELETE FROM registration_tokens WHERE token = $1 RETURNING true", token
        )
        return bool(found)

    async def create(
        self, token: str, *, uses_allowed: int | None = None, expires_ms: int | None = None
    ) -> None:
        """Creates a token; DataRefused if there is one with this name."""
        await self._database.execute(
            "INSERT INTO registration_tokens (token, uses_allowed, expires_ms) VALUES ($1, $2, $3)",
            token,
            uses_allowed,
            expires_ms,
        )
