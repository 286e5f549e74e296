"""The table `devices`: display names, when devices were last seen, and the data of dehydrated ones
(MSC3814), which have no access token.

A device's keys are in other tables; the caller that deletes a device also deletes them in the same
transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from federation.events.ids import DeviceId, UserId
from homeserver.storage.database import Connection, Database


class DeviceRow(msgspec.Struct, frozen=True):
    """A device of a local user."""

    device_id: DeviceId
    display_name: str | None
    last_seen_ms: int
    last_seen_address: str


class DehydratedRow(msgspec.Struct, frozen=True):
    """A user's dehydrated device; `data` is JSON, for their clients alone."""

    device_id: DeviceId
    data: bytes


_COLUMNS = "device_id, display_name, last_seen_ms, last_seen_address"


async def create(
    connection: Connection,
    user_id: UserId,
    device_id: DeviceId,
    *,
    display_name: str | None,
    now_ms: int,
) -> bool:
    """Creates a device without an access token, which was seen nowhere yet. Returns False if the
    user has it already."""
    result = await connection.fetchval(
        "INSERT INTO devices"
        " (user_id, device_id, display_name, created_ms, last_seen_ms, last_seen_address)"
        " VALUES ($1, $2, $3, $4, $4, '') ON CONFLICT DO NOTHING RETURNING true",
        user_id,
        device_id,
        display_name,
        now_ms,
    )
    return bool(result)


async def dehydrate(
    connection: Connection,
    user_id: UserId,
    device_id: DeviceId,
    *,
    display_name: str | None,
    data: bytes,
    now_ms: int,
) -> bool:
    """Creates the dehydrated device of an active account, or replaces the data of the one with this
    ID. *Precondition:* the user has no dehydrated device with another ID. Returns False if there is
    no such account, or if the ID is an ordinary device's."""
    result = await connection.fetchval(
        "INSERT INTO devices (user_id, device_id, display_name, created_ms, last_seen_ms,"
        " last_seen_address, dehydrated) SELECT user_id, $2, $3, $4, $4, '', $5 FROM accounts"
        " WHERE user_id = $1 AND NOT is_deactivated FOR SHARE"
        " ON CONFLICT (user_id, device_id) DO UPDATE SET dehydrated = excluded.dehydrated,"
        " display_name = coalesce(excluded.display_name, devices.display_name)"
        " WHERE devices.dehydrated IS NOT NULL RETURNING true",
        user_id,
        device_id,
        display_name,
        now_ms,
        data,
    )
    return bool(result)


async def load_dehydrated(connection: Connection, user_id: UserId) -> DehydratedRow | None:
    """Returns a user's dehydrated device, if there is one."""
    row = await connection.fetchrow(
        "SELECT device_id, dehydrated FROM devices WHERE user_id = $1 AND dehydrated IS NOT NULL",
        user_id,
    )
    return None if row is None else DehydratedRow(*row)


async def rename(
    connection: Connection, user_id: UserId, device_id: DeviceId, display_name: str
) -> bool:
    """Sets a device's display name. Returns False if the user doesn't have the device."""
    result = await connection.fetchval(
        "UPDATE devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2 RETURNING true",
        user_id,
        device_id,
        display_name,
    )
    return bool(result)


_DELETE = """
WITH device AS (
    DELETE FROM devices
    WHERE user_id = $1 AND ($2::text[] IS NULL OR device_id = ANY($2))
        AND ($3::text IS NULL OR device_id <> $3) AND (NOT $4 OR dehydrated IS NULL)
    RETURNING device_id
), token AS (
    DELETE FROM access_tokens
    WHERE user_id = $1 AND ($2::text[] IS NULL OR device_id = ANY($2))
        AND ($3::text IS NULL OR device_id <> $3)
), refresh AS (
    DELETE FROM refresh_tokens
    WHERE user_id = $1 AND ($2::text[] IS NULL OR device_id = ANY($2))
        AND ($3::text IS NULL OR device_id <> $3)
)
SELECT device_id FROM device ORDER BY device_id
"""


async def delete(
    connection: Connection,
    user_id: UserId,
    device_ids: Sequence[DeviceId] | None,
    *,
    spare: DeviceId | None = None,
    keeps_dehydrated: bool = False,
) -> list[DeviceId]:
    """Deletes devices (None: all, but `spare`) with their access tokens; returns those that
    existed. `keeps_dehydrated`: a device that nobody is logged in with stays."""
    rows = await connection.fetch(_DELETE, user_id, device_ids, spare, keeps_dehydrated)
    return [row["device_id"] for row in rows]


class DeviceTable:
    """The devices of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load_all(self, user_id: UserId) -> list[DeviceRow]:
        """Returns all devices of a user, in order of their IDs."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM devices WHERE user_id = $1 ORDER BY device_id", user_id
        )
        return [DeviceRow(*row) for row in rows]

    async def load(self, user_id: UserId, device_id: DeviceId) -> DeviceRow | None:
        """Returns one device, None if the user doesn't have it."""
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS} FROM devices WHERE user_id = $1 AND device_id = $2",
            user_id,
            device_id,
        )
        return None if row is None else DeviceRow(*row)

    async def load_dehydrated(self, user_id: UserId) -> DehydratedRow | None:
        """Returns a user's dehydrated device, if there is one."""
        async with self._database.connection() as connection:
            return await load_dehydrated(connection, user_id)

    async def load_surplus(self, user_id: UserId, devices_max: int) -> list[DeviceId]:
        """Returns the devices beyond `devices_max`: those that weren't used for longest. Dehydrated
        ones, which are never used, don't count."""
        rows = await self._database.fetch(
            "SELECT device_id FROM devices WHERE user_id = $1 AND dehydrated IS NULL"
            " ORDER BY last_seen_ms DESC, created_ms DESC, device_id OFFSET $2",
            user_id,
            devices_max,
        )
        return [DeviceId(row[0]) for row in rows]

    async def load_names(
        self, user_ids: Collection[UserId]
    ) -> dict[UserId, dict[DeviceId, str | None]]:
        """Returns the display names of all devices of some users."""
        rows = await self._database.fetch(
            "SELECT user_id, device_id, display_name FROM devices WHERE user_id = ANY($1::text[])",
            list(user_ids),
        )
        found: dict[UserId, dict[DeviceId, str | None]] = {}
        for row in rows:
            found.setdefault(UserId(row[0]), {})[DeviceId(row[1])] = row[2]
        return found

    async def is_seen_at(self, user_id: UserId, address: str) -> bool:
        """Returns whether a device of the user was last seen at an address."""
        found = await self._database.fetchval(
            "SELECT EXISTS (SELECT FROM devices WHERE user_id = $1 AND last_seen_address = $2)",
            user_id,
            address,
        )
        return bool(found)

    async def seen_since(self, since_ms: int, users_max: int) -> list[tuple[UserId, int]]:
        """Returns users with a device that was seen since a time (ms since 1970), and when the last
        time was, newest first."""
        rows = await self._database.fetch(
            "SELECT user_id, max(last_seen_ms) AS ms FROM devices WHERE last_seen_ms >= $1"
            " GROUP BY user_id ORDER BY ms DESC, user_id LIMIT $2",
            since_ms,
            users_max,
        )
        return [(UserId(row[0]), row[1]) for row in rows]

    async def note_seen(self, seen: Sequence[tuple[UserId, DeviceId, int, str]]) -> None:
        """Stores when and from which address devices were last seen."""
        users, devices, times, addresses = zip(*seen, strict=True)
        await self._database.execute(
            "UPDATE devices SET last_seen_ms = seen.ms, last_seen_address = seen.address"
            " FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])"
            " AS seen (user_id, device_id, ms, address)"
            " WHERE devices.user_id = seen.user_id AND devices.device_id = seen.device_id",
            users,
            devices,
            times,
            addresses,
        )
