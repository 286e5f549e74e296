"""The tables `refresh_tokens` and `access_tokens`, where a device's tokens are exchanged for new
ones.

Rules:
1. A device has at most one refresh token in each state: the current one; the next one, which the
   current one was exchanged for and which isn't used yet, nor the access token that came with it;
   the spent one, before the current one.
2. The device's row is locked first by every function that moves its tokens on.
3. The functions run in a transaction of their caller.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from federation.events.ids import DeviceId, UserId
from homeserver.storage.database import Connection


class RefreshState(Enum):
    """The state of a refresh token; the value is the column's."""

    CURRENT = "current"
    """It may be exchanged."""
    NEXT = "next"
    """Likewise; its use makes it the current one."""
    SPENT = "spent"
    """It was exchanged, and what it was exchanged for was used."""


class RefreshHolder(msgspec.Struct, frozen=True):
    """Whose a refresh token is."""

    user_id: UserId
    device_id: DeviceId
    state: RefreshState
    is_locked: bool


class NewTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The hashes of an access token and the refresh token for it."""

    access_hash: bytes
    expires_ms: int
    refresh_hash: bytes


async def load_holder(connection: Connection, refresh_hash: bytes) -> RefreshHolder | None:
    """Returns the holder of a refresh token, and locks their device; None for an unknown one, or a
    deactivated account's."""
    row = await connection.fetchrow(
        "SELECT user_id, device_id FROM refresh_tokens WHERE hash = $1", refresh_hash
    )
    if row is None or not await _lock_device(connection, row[0], row[1]):
        return None
    row = await connection.fetchrow(
        "SELECT r.user_id, r.device_id, r.state, a.is_locked FROM refresh_tokens r"
        " JOIN accounts a USING (user_id) WHERE r.hash = $1 AND NOT a.is_deactivated",
        refresh_hash,
    )
    return None if row is None else RefreshHolder(row[0], row[1], RefreshState(row[2]), row[3])


async def promote(
    connection: Connection, user_id: UserId, device_id: DeviceId, now_ms: int
) -> None:
    """Makes the next tokens of a device the current ones, if there are any: the former refresh
    token is spent, and the former access token expires. It is kept until the next time, so that
    requests that are under way with it are told of a soft log-out."""
    await _lock_device(connection, user_id, device_id)
    where = "WHERE user_id = $1 AND device_id = $2"
    is_there = await connection.fetchval(
        f"SELECT true FROM refresh_tokens {where} AND state = $3",
        user_id,
        device_id,
        RefreshState.NEXT.value,
    )
    if not is_there:
        return
    await connection.execute(
        f"DELETE FROM refresh_tokens {where} AND state = $3",
        user_id,
        device_id,
        RefreshState.SPENT.value,
    )
    for former, state in (
        (RefreshState.CURRENT, RefreshState.SPENT),
        (RefreshState.NEXT, RefreshState.CURRENT),
    ):
        await connection.execute(
            f"UPDATE refresh_tokens SET state = $4 {where} AND state = $3",
            user_id,
            device_id,
            former.value,
            state.value,
        )
    await connection.execute(
        f"DELETE FROM access_tokens {where} AND NOT is_next AND token_id <"
        f" (SELECT max(token_id) FROM access_tokens {where} AND NOT is_next)",
        user_id,
        device_id,
    )
    await connection.execute(
        "UPDATE access_tokens SET is_next = false,"
        f" expires_ms = CASE WHEN is_next THEN expires_ms ELSE $3 END {where}",
        user_id,
        device_id,
        now_ms,
    )


async def exchange(
    connection: Connection, user_id: UserId, device_id: DeviceId, new: NewTokens
) -> None:
    """Stores the next tokens of a device, in place of earlier ones that weren't used."""
    await connection.execute(
        "DELETE FROM access_tokens WHERE user_id = $1 AND device_id = $2 AND is_next",
        user_id,
        device_id,
    )
    await connection.execute(
        "INSERT INTO access_tokens (hash, user_id, device_id, expires_ms, is_next)"
        " VALUES ($3, $1, $2, $4, true)",
        user_id,
        device_id,
        new.access_hash,
        new.expires_ms,
    )
    await connection.execute(
        "INSERT INTO refresh_tokens (hash, user_id, device_id, state) VALUES ($3, $1, $2, $4)"
        " ON CONFLICT (user_id, device_id, state) DO UPDATE SET hash = excluded.hash",
        user_id,
        device_id,
        new.refresh_hash,
        RefreshState.NEXT.value,
    )


async def begin(
    connection: Connection, user_id: UserId, device_id: DeviceId, refresh_hash: bytes | None
) -> None:
    """Replaces all refresh tokens of a device by one, or by none."""
    await connection.execute(
        "DELETE FROM refresh_tokens WHERE user_id = $1 AND device_id = $2", user_id, device_id
    )
    if refresh_hash is not None:
        await connection.execute(
            "INSERT INTO refresh_tokens (hash, user_id, device_id, state) VALUES ($3, $1, $2, $4)",
            user_id,
            device_id,
            refresh_hash,
            RefreshState.CURRENT.value,
        )


async def _lock_device(connection: Connection, user_id: UserId, device_id: DeviceId) -> bool:
    found = await connection.fetchval(
        "SELECT true FROM devices WHERE user_id = $1 AND device_id = $2 FOR UPDATE",
        user_id,
        device_id,
    )
    return bool(found)
