"""Pushers, and how far each of them was told. Owns `pushers`.

Rules:
1. A pusher that is set anew keeps its cursor: what it is owed is still owed. It is tried at once;
   its failures are forgotten if it has another gateway than before.
2. A pusher is set for a device that exists, and locks its row: one that is being removed takes the
   pusher with it, or refuses it.

Spec: client-server API, "Push Notifications".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from typing import Any

import msgspec

from federation.events.ids import DeviceId, UserId
from federation.https_urls import HttpsUrl
from homeserver import limits
from homeserver.rules.push.pushers import Pusher, PusherKey, gateway_of
from homeserver.storage.database import Connection, Database


class PusherProgress(msgspec.Struct, frozen=True):
    """How far a pusher was told: `cursor` is a position of the log, `badge` the number of unread
    notifications that it was told last. `failures` in a row, since when, and when it is tried
    again."""

    cursor: int
    badge: int = 0
    failures: int = 0
    failing_since_ms: int | None = None
    retry_at_ms: int | None = None


class StoredPusher(msgspec.Struct, frozen=True):
    """A pusher of a user. `is_locked`: the user's account is, for now."""

    pusher_id: int
    user_id: UserId
    set_ms: int
    pusher: Pusher
    progress: PusherProgress
    is_locked: bool = False


class NotSet(Enum):
    """The reason why a pusher wasn't stored."""

    FULL = "full"
    """The user has `PUSHERS_PER_USER`."""
    NO_DEVICE = "no device"
    """The device is gone."""


_SETTINGS = "kind, app_display_name, device_display_name, profile_tag, lang, data"
_PROGRESS = "cursor, badge, failures, failing_since_ms, retry_at_ms"
IS_LOCKED = "EXISTS (SELECT FROM accounts a WHERE a.user_id = {pushers}.user_id AND a.is_locked)"
"""Whether the account of a pusher's user is locked."""

_COLUMNS = (
    f"pusher_id, user_id, set_ms, app_id, pushkey, {_SETTINGS}, {_PROGRESS},"
    f" {IS_LOCKED.format(pushers='pushers')}"
)


async def delete_of_devices(
    connection: Connection, user_id: UserId, device_ids: Sequence[DeviceId]
) -> None:
    """Deletes the pushers that some devices have set, with the devices."""
    await connection.execute(
        "DELETE FROM pushers WHERE user_id = $1 AND device_id = ANY($2::text[])",
        user_id,
        list(device_ids),
    )


class PusherTable:
    """The pushers of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(
        self, user_id: UserId, device_id: DeviceId, pusher: Pusher, *, now_ms: int, position: int
    ) -> int | NotSet:
        """Stores a pusher, known ones anew; returns its ID. A new one is told what comes after
        `position`."""
        async with self._database.transaction() as connection:
            await _lock_user(connection, user_id)
            found = await connection.fetchval(
                "SELECT true FROM devices WHERE user_id = $1 AND device_id = $2 FOR SHARE",
                user_id,
                device_id,
            )
            if found is None:
                return NotSet.NO_DEVICE
            others: int = await connection.fetchval(
                "SELECT count(*) FROM pushers WHERE user_id = $1 AND (app_id, pushkey) <> ($2, $3)",
                user_id,
                *_names(pusher.key),
            )
            if others >= limits.PUSHERS_PER_USER:
                return NotSet.FULL
            before = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM pushers WHERE user_id = $1 AND (app_id, pushkey) ="
                " ($2, $3)",
                user_id,
                *_names(pusher.key),
            )
            is_moved = before is not None and _target(_stored(before).pusher) != _target(pusher)
            pusher_id: int = await connection.fetchval(
                "INSERT INTO pushers AS p (user_id, device_id, app_id, pushkey, set_ms, cursor,"
                f" {_SETTINGS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
                " ON CONFLICT (user_id, app_id, pushkey) DO UPDATE"
                " SET device_id = excluded.device_id, set_ms = excluded.set_ms,"
                " kind = excluded.kind, app_display_name = excluded.app_display_name,"
                " device_display_name = excluded.device_display_name,"
                " profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data,"
                " failures = CASE WHEN $13 THEN 0 ELSE p.failures END,"
                " failing_since_ms = CASE WHEN $13 THEN NULL ELSE p.failing_since_ms END,"
                " retry_at_ms = NULL RETURNING pusher_id",
                user_id,
                device_id,
                *_names(pusher.key),
                now_ms,
                position,
                *_settings(pusher),
                is_moved,
            )
            return pusher_id

    async def delete(self, user_id: UserId, keys: Collection[PusherKey]) -> None:
        """Deletes pushers of a user; those that aren't there are no error."""
        await self._database.execute(
            "DELETE FROM pushers USING unnest($2::text[], $3::text[]) AS k (app_id, pushkey)"
            " WHERE user_id = $1 AND pushers.app_id = k.app_id AND pushers.pushkey = k.pushkey",
            user_id,
            [key.app_id for key in keys],
            [key.pushkey for key in keys],
        )

    async def delete_of_others(self, user_id: UserId, key: PusherKey) -> None:
        """Deletes the pushers with these names of all users but one."""
        await self._database.execute(
            "DELETE FROM pushers WHERE app_id = $2 AND pushkey = $3 AND user_id <> $1",
            user_id,
            *_names(key),
        )

    async def load_of(self, user_id: UserId) -> list[Pusher]:
        """Returns the pushers of a user, in the order in which they were first set."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM pushers WHERE user_id = $1 ORDER BY pusher_id", user_id
        )
        return [_stored(row).pusher for row in rows]

    async def load(self, pusher_id: int) -> StoredPusher | None:
        """Returns a pusher; None once it is gone."""
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS} FROM pushers WHERE pusher_id = $1", pusher_id
        )
        return None if row is None else _stored(row)

    async def load_ids(self) -> list[tuple[UserId, int]]:
        """Returns the IDs of all pushers, with their users."""
        rows = await self._database.fetch("SELECT user_id, pusher_id FROM pushers")
        return [(UserId(row[0]), row[1]) for row in rows]

    async def note(self, pusher_id: int, progress: PusherProgress) -> None:
        """Stores how far a pusher was told; the cursor doesn't go back."""
        await self._database.execute(
            "UPDATE pushers SET cursor = greatest(cursor, $2), badge = $3, failures = $4,"
            " failing_since_ms = $5, retry_at_ms = $6 WHERE pusher_id = $1",
            pusher_id,
            progress.cursor,
            progress.badge,
            progress.failures,
            progress.failing_since_ms,
            progress.retry_at_ms,
        )


async def _lock_user(connection: Connection, user_id: UserId) -> None:
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('pushers ' || $1, 4))", user_id
    )


def _names(key: PusherKey) -> tuple[str, str]:
    return key.app_id, key.pushkey


def _target(pusher: Pusher) -> tuple[str, HttpsUrl | None]:
    """Returns where a pusher's notifications go; e-mail goes to its key."""
    return pusher.kind, gateway_of(pusher)


def _settings(pusher: Pusher) -> tuple[str | bytes, ...]:
    return (
        pusher.kind,
        pusher.app_display_name,
        pusher.device_display_name,
        pusher.profile_tag,
        pusher.lang,
        pusher.data,
    )


def _stored(row: Any) -> StoredPusher:
    pusher = Pusher(PusherKey(*row[3:5]), *row[5:11])
    return StoredPusher(
        row[0], UserId(row[1]), row[2], pusher, PusherProgress(*row[11:16]), row[16]
    )
