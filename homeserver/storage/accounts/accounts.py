"""The tables `accounts` and `departures`, and the statement that creates an account with its
profile, device and token.

A user ID is never given out twice: deactivated accounts keep their row.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from federation.events.ids import DeviceId, RoomId, UserId
from homeserver.storage.database import Connection, Database
from homeserver.storage.logs import LOG


class Account(msgspec.Struct, frozen=True):
    """A local account. `password_hash` is None for guests and deactivated accounts."""

    user_id: UserId
    password_hash: str | None
    is_guest: bool
    is_deactivated: bool
    is_locked: bool


class AccountRow(msgspec.Struct, frozen=True):
    """A local account, as its server's operator sees it."""

    user_id: UserId
    created_ms: int
    is_guest: bool
    is_deactivated: bool
    rooms: int
    """How many rooms the user is joined to."""
    is_locked: bool
    is_suspended: bool
    is_admin: bool


class NewAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The values that `create` stores. Without `device_id` no device and no token are created."""

    user_id: UserId
    password_hash: str | None
    is_guest: bool
    is_admin: bool = False
    display_name: bytes  # JSON
    created_ms: int
    device_id: DeviceId | None
    device_name: str | None
    token_hash: bytes
    expires_ms: int | None = None
    refresh_hash: bytes | None = None
    address: str


_ROW = (
    "SELECT a.user_id, a.created_ms, a.is_guest, a.is_deactivated, (SELECT count(*)"
    " FROM memberships m WHERE m.user_id = a.user_id AND m.membership = 'join'),"
    " a.is_locked, a.is_suspended, a.is_admin FROM accounts a"
)
_CREATE = """
WITH account AS (
    INSERT INTO accounts (user_id, password_hash, is_guest, created_ms, is_admin)
    VALUES ($1, $2, $3, $4, $10) ON CONFLICT (user_id) DO NOTHING RETURNING user_id
), profile AS (
    INSERT INTO profiles (user_id, key, value) SELECT user_id, 'displayname', $5 FROM account
), device AS (
    INSERT INTO devices
        (user_id, device_id, display_name, created_ms, last_seen_ms, last_seen_address)
    SELECT user_id, $6::text, $7, $4, $4, $9 FROM account WHERE $6::text IS NOT NULL
), token AS (
    INSERT INTO access_tokens (hash, user_id, device_id, expires_ms)
    SELECT $8, user_id, $6::text, $11 FROM account WHERE $6::text IS NOT NULL
), refresh AS (
    INSERT INTO refresh_tokens (hash, user_id, device_id, state)
    SELECT $12::bytea, user_id, $6::text, 'current' FROM account
    WHERE $6::text IS NOT NULL AND $12::bytea IS NOT NULL
)
SELECT count(*) FROM account
"""


async def create(connection: Connection, new: NewAccount) -> bool:
    """Creates an account, its profile, device and token in one statement. Returns False if the name
    is taken; nothing is stored then."""
    created = await connection.fetchval(
        _CREATE,
        new.user_id,
        new.password_hash,
        new.is_guest,
        new.created_ms,
        new.display_name,
        new.device_id,
        new.device_name,
        new.token_hash,
        new.address,
        new.is_admin,
        new.expires_ms,
        new.refresh_hash,
    )
    return bool(created)


async def change_password(
    connection: Connection, user_id: UserId, password_hash: str, *, previous: str | None = None
) -> bool:
    """Sets the hash of an active account; with `previous`, only if that is still the hash."""
    result = await connection.fetchval(
        "UPDATE accounts SET password_hash = $2"
        " WHERE user_id = $1 AND NOT is_deactivated AND ($3::text IS NULL OR password_hash = $3)"
        " RETURNING true",
        user_id,
        password_hash,
        previous,
    )
    return bool(result)


async def upgrade_guest(connection: Connection, user_id: UserId, password_hash: str) -> bool:
    """Turns a guest's account into an ordinary one. Returns False if it isn't a guest's."""
    result = await connection.fetchval(
        "UPDATE accounts SET password_hash = $2, is_guest = false"
        " WHERE user_id = $1 AND is_guest AND NOT is_deactivated RETURNING true",
        user_id,
        password_hash,
    )
    return bool(result)


async def deactivate(
    connection: Connection, user_id: UserId, *, erase: bool, token_id: int | None = None
) -> bool:
    """Marks an account as deactivated, deletes its password, and records that its user has to leave
    all rooms, and the access token of the request; with `erase`, also that users who join later
    don't see its messages. Returns False if it was deactivated already."""
    result = await connection.fetchval(
        "WITH ended AS (UPDATE accounts SET is_deactivated = true, password_hash = NULL,"
        "  erased_at = CASE WHEN $2 THEN (SELECT position FROM logs WHERE log = $3) END,"
        "  ended_by = (SELECT hash FROM access_tokens WHERE token_id = $4)"
        "  WHERE user_id = $1 AND NOT is_deactivated RETURNING user_id),"
        " departing AS (INSERT INTO departures (user_id) SELECT user_id FROM ended"
        "  ON CONFLICT DO NOTHING)"
        " SELECT true FROM ended",
        user_id,
        erase,
        LOG,
        token_id,
    )
    return bool(result)


async def erase(connection: Connection, user_id: UserId) -> bool:
    """Marks a deactivated account as erased from now on: users who join later don't see its
    messages. Returns False if it isn't deactivated, or was erased already."""
    result = await connection.fetchval(
        "UPDATE accounts SET erased_at = (SELECT position FROM logs WHERE log = $2)"
        " WHERE user_id = $1 AND is_deactivated AND erased_at IS NULL RETURNING true",
        user_id,
        LOG,
    )
    return bool(result)


class AccountTable:
    """The local accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId) -> Account | None:
        """Returns the account of a user, None if there is none."""
        row = await self._database.fetchrow(
            "SELECT password_hash, is_guest, is_deactivated, is_locked"
            " FROM accounts WHERE user_id = $1",
            user_id,
        )
        return None if row is None else Account(user_id, *row)

    async def change_password(
        self, user_id: UserId, password_hash: str, *, previous: str | None = None
    ) -> bool:
        """See the function `change_password`."""
        async with self._database.connection() as connection:
            return await change_password(connection, user_id, password_hash, previous=previous)

    async def load_row(self, user_id: UserId) -> AccountRow | None:
        """Returns an account as the operator sees it; None if there is none."""
        row = await self._database.fetchrow(f"{_ROW} WHERE a.user_id = $1", user_id)
        return None if row is None else AccountRow(*row)

    async def page(self, after: str, limit: int) -> list[AccountRow]:
        """Returns accounts with IDs past `after`, in order."""
        rows = await self._database.fetch(
            f"{_ROW} WHERE a.user_id > $1 ORDER BY a.user_id LIMIT $2", after, limit
        )
        return [AccountRow(*row) for row in rows]

    async def load_guests(
        self, room_ids: Collection[RoomId] | None = None
    ) -> list[tuple[RoomId, UserId]]:
        """Returns the guests who are joined to one of these rooms, or to any. Reads tables of
        `memberships` and `rooms`.
        """
        rows = await self._database.fetch(
            "SELECT r.room_id, m.user_id FROM accounts a JOIN memberships m USING (user_id)"
            " JOIN rooms r USING (room_row_id) WHERE a.is_guest AND NOT a.is_deactivated"
            " AND m.membership = 'join' AND ($1::text[] IS NULL OR r.room_id = ANY($1))",
            None if room_ids is None else list(room_ids),
        )
        return [(RoomId(row[0]), UserId(row[1])) for row in rows]

    async def is_ended_by(self, token_hash: bytes, *, erased: bool) -> bool:
        """Returns whether an access token was the one that ended its account, and (`erased`) erased
        it.
        """
        found = await self._database.fetchval(
            "SELECT true FROM accounts WHERE ended_by = $1 AND (NOT $2 OR erased_at IS NOT NULL)",
            token_hash,
            erased,
        )
        return bool(found)

    async def load_departing(self) -> list[UserId]:
        """Returns the deactivated users who may still be in rooms, in order of their IDs."""
        rows = await self._database.fetch("SELECT user_id FROM departures ORDER BY user_id")
        return [UserId(row[0]) for row in rows]

    async def forget_departing(self, user_id: UserId) -> None:
        """Deletes the departure of a deactivated user who is in no room any more."""
        await self._database.execute("DELETE FROM departures WHERE user_id = $1", user_id)

    async def load_erased(self) -> dict[UserId, int]:
        """Returns the users who asked for erasure, with the log's position then."""
        rows = await self._database.fetch(
            "SELECT user_id, erased_at FROM accounts WHERE erased_at IS NOT NULL"
        )
        return {UserId(row[0]): row[1] for row in rows}
