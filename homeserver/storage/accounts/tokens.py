"""The table `access_tokens`: SHA-256 hashes, each of one device of a user."""

from __future__ import annotations

import msgspec

from federation.events.ids import DeviceId, UserId
from homeserver.storage.accounts import refresh_tokens
from homeserver.storage.database import Connection, Database


class TokenOwner(msgspec.Struct, frozen=True):
    """The holder of a token."""

    token_id: int
    user_id: UserId
    device_id: DeviceId
    is_guest: bool
    is_locked: bool
    is_suspended: bool
    is_admin: bool
    expires_ms: int | None
    is_next: bool
    """It came with a refresh token that wasn't used yet, and this is its first use."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """The values that `log_in` stores: `password_hash` is the one that the password was checked
    against; None where another proof let the user in. `refresh_hash` None: the token can't be
    refreshed.
    """

    user_id: UserId
    password_hash: str | None
    device_id: DeviceId
    device_name: str | None
    token_hash: bytes
    expires_ms: int | None = None
    refresh_hash: bytes | None = None
    now_ms: int
    address: str


_LOG_IN = """
WITH account AS (
    SELECT user_id FROM accounts
    WHERE user_id = $1 AND ($2::text IS NULL OR password_hash = $2) AND NOT is_deactivated
    FOR SHARE
), device AS (
    INSERT INTO devices
        (user_id, device_id, display_name, created_ms, last_seen_ms, last_seen_address)
    SELECT user_id, $3, $4, $6, $6, $7 FROM account
    ON CONFLICT (user_id, device_id)
    DO UPDATE SET last_seen_ms = $6, last_seen_address = $7
    RETURNING (xmax = 0) AS is_new
), token AS (
    INSERT INTO access_tokens (hash, user_id, device_id, expires_ms)
    SELECT $5, user_id, $3, $8 FROM account
)
SELECT is_new FROM device
"""


async def log_in(connection: Connection, login: Login) -> bool | None:
    """Gives a device a new token, which ends its former ones. Returns whether the device is new;
    None if the account has another password by now, or is deactivated."""
    result: bool | None = await connection.fetchval(
        _LOG_IN,
        login.user_id,
        login.password_hash,
        login.device_id,
        login.device_name,
        login.token_hash,
        login.now_ms,
        login.address,
        login.expires_ms,
    )
    if result is not None:
        # Another statement: it sees what was committed while the first waited for the device.
        await connection.execute(
            "DELETE FROM access_tokens WHERE user_id = $1 AND device_id = $2 AND hash <> $3",
            login.user_id,
            login.device_id,
            login.token_hash,
        )
        await refresh_tokens.begin(connection, login.user_id, login.device_id, login.refresh_hash)
    return result


class AccessTokenTable:
    """The access tokens of active accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, token_hash: bytes) -> TokenOwner | None:
        """Returns the holder of a token, by its hash; None if there is none, or if the account is
        deactivated."""
        row = await self._database.fetchrow(
            "SELECT token_id, user_id, device_id, is_guest, is_locked, is_suspended, is_admin,"
            " expires_ms, is_next"
            " FROM access_tokens JOIN accounts USING (user_id)"
            " WHERE hash = $1 AND NOT is_deactivated",
            token_hash,
        )
        return None if row is None else TokenOwner(*row)

    async def promote(self, user_id: UserId, device_id: DeviceId, now_ms: int) -> None:
        """See `refresh_tokens.promote`."""
        async with self._database.transaction() as connection:
            await refresh_tokens.promote(connection, user_id, device_id, now_ms)
