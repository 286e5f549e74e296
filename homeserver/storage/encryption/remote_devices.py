"""Stored device lists of remote users, and those that must be fetched again. Owns
`remote_device_lists`, `remote_devices` and `device_list_resyncs`.

Rules:
1. A list is stored only while its user shares a room with a local user: later there are no updates.
2. `seen` holds the newest stream IDs of the list; an update that refers to another one shows a gap.
3. A due fetch is a row until it succeeds, so a restart loses none.

Spec: server-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.storage.database import Connection, Database


class RemoteDevice(msgspec.Struct, frozen=True):
    """A device of a remote user; `keys` is JSON, None if it has none."""

    device_id: DeviceId
    keys: bytes | None
    display_name: str | None = None


class RemoteList(msgspec.Struct, frozen=True):
    """A remote user's devices and cross-signing keys (JSON)."""

    devices: Mapping[DeviceId, RemoteDevice]
    master_key: bytes | None = None
    self_signing_key: bytes | None = None


class Resync(msgspec.Struct, frozen=True):
    """A list that must be fetched again."""

    user_id: UserId
    attempts: int
    retry_at_ms: int


async def load(connection: Connection, user_ids: Collection[UserId]) -> dict[UserId, RemoteList]:
    """Returns the stored lists of these users."""
    wanted = list(user_ids)
    lists = await connection.fetch(
        "SELECT user_id, master_key, self_signing_key FROM remote_device_lists"
        " WHERE user_id = ANY($1::text[])",
        wanted,
    )
    devices: dict[str, dict[DeviceId, RemoteDevice]] = {row[0]: {} for row in lists}
    for row in await connection.fetch(
        "SELECT user_id, device_id, keys, display_name FROM remote_devices"
        " WHERE user_id = ANY($1::text[])",
        wanted,
    ):
        if row[0] in devices:
            device = RemoteDevice(DeviceId(row[1]), row[2], row[3])
            devices[row[0]][device.device_id] = device
    return {UserId(row[0]): RemoteList(devices[row[0]], row[1], row[2]) for row in lists}


async def seen(connection: Connection, user_id: UserId) -> list[int] | None:
    """Returns the newest stream IDs of a stored list; None if it isn't stored. Locks the list's
    row.
    """
    found: list[int] | None = await connection.fetchval(
        "SELECT seen FROM remote_device_lists WHERE user_id = $1 FOR UPDATE", user_id
    )
    return found


async def replace(
    connection: Connection, user_id: UserId, stream_id: int, fetched: RemoteList
) -> None:
    """Stores a fetched list; newer updates that came in the meantime stay known."""
    await connection.execute(
        "INSERT INTO remote_device_lists (user_id, seen, master_key, self_signing_key)"
        " VALUES ($1, ARRAY[$2::bigint], $3, $4) ON CONFLICT (user_id) DO UPDATE"
        " SET seen = excluded.seen, master_key = excluded.master_key,"
        " self_signing_key = excluded.self_signing_key",
        user_id,
        stream_id,
        fetched.master_key,
        fetched.self_signing_key,
    )
    await connection.execute("DELETE FROM remote_devices WHERE user_id = $1", user_id)
    await connection.executemany(
        "INSERT INTO remote_devices (user_id, device_id, keys, display_name)"
        " VALUES ($1, $2, $3, $4)",
        [(user_id, d.device_id, d.keys, d.display_name) for d in fetched.devices.values()],
    )


async def apply_update(
    connection: Connection, user_id: UserId, stream_id: int, device: RemoteDevice | DeviceId
) -> None:
    """Applies one update to a stored list: a device's new state, or the ID of a removed one."""
    await connection.execute(
        "UPDATE remote_device_lists SET seen = (array_append(seen, $2))"
        "[greatest(1, cardinality(seen) + 2 - $3) :] WHERE user_id = $1",
        user_id,
        stream_id,
        limits.DEVICE_LIST_UPDATES_SEEN,
    )
    if isinstance(device, str):
        await connection.execute(
            "DELETE FROM remote_devices WHERE user_id = $1 AND device_id = $2", user_id, device
        )
        return
    await connection.execute(
        "INSERT INTO remote_devices (user_id, device_id, keys, display_name)"
        " VALUES ($1, $2, $3, $4) ON CONFLICT (user_id, device_id)"
        " DO UPDATE SET keys = excluded.keys, display_name = excluded.display_name",
        user_id,
        device.device_id,
        device.keys,
        device.display_name,
    )


async def count_devices(connection: Connection, user_id: UserId) -> int:
    """Returns the number of a user's stored devices."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM remote_devices WHERE user_id = $1", user_id
    )
    return found


async def set_cross_signing(
    connection: Connection,
    user_id: UserId,
    *,
    master_key: bytes | None,
    self_signing_key: bytes | None,
) -> None:
    """Sets the given keys of a stored list."""
    await connection.execute(
        "UPDATE remote_device_lists SET master_key = coalesce($2, master_key),"
        " self_signing_key = coalesce($3, self_signing_key) WHERE user_id = $1",
        user_id,
        master_key,
        self_signing_key,
    )


async def forget(connection: Connection, user_ids: Collection[UserId]) -> None:
    """Deletes lists, with their due fetches."""
    for table in ("remote_device_lists", "remote_devices", "device_list_resyncs"):
        await connection.execute(
            f"DELETE FROM {table} WHERE user_id = ANY($1::text[])", list(user_ids)
        )


async def mark_resyncs(
    connection: Connection, user_ids: Collection[UserId], *, retry_at_ms: int
) -> None:
    """Notes that lists must be fetched again."""
    await connection.execute(
        "INSERT INTO device_list_resyncs (user_id, retry_at_ms)"
        " SELECT unnest($1::text[]), $2 ON CONFLICT (user_id) DO UPDATE"
        " SET retry_at_ms = least(device_list_resyncs.retry_at_ms, excluded.retry_at_ms)",
        sorted(set(user_ids)),
        retry_at_ms,
    )


async def pending_resyncs(connection: Connection, user_ids: Sequence[UserId]) -> set[UserId]:
    """Returns those of the users whose list must be fetched again."""
    rows = await connection.fetch(
        "SELECT user_id FROM device_list_resyncs WHERE user_id = ANY($1::text[])", user_ids
    )
    return {UserId(row[0]) for row in rows}


async def finish_resync(connection: Connection, user_id: UserId) -> None:
    """Deletes a fetch that succeeded, or isn't wanted any more."""
    await connection.execute("DELETE FROM device_list_resyncs WHERE user_id = $1", user_id)


class RemoteDeviceTable:
    """The stored lists, and the fetches that are due."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_ids: Collection[UserId]) -> dict[UserId, RemoteList]:
        """Returns the stored lists of these users."""
        async with self._database.connection() as connection:
            return await load(connection, user_ids)

    async def load_with_pending(
        self, user_ids: Collection[UserId]
    ) -> tuple[dict[UserId, RemoteList], set[UserId]]:
        """Returns the stored lists of these users, and those users of the lists that must be
        fetched again."""
        async with self._database.connection() as connection:
            lists = await load(connection, user_ids)
            return lists, await pending_resyncs(connection, list(lists))

    async def is_kept(self, user_id: UserId) -> bool:
        """Returns whether a user's list is stored."""
        found = await self._database.fetchval(
            "SELECT 1 FROM remote_device_lists WHERE user_id = $1", user_id
        )
        return found is not None

    async def load_kept(self) -> set[UserId]:
        """Returns the users whose lists are stored."""
        rows = await self._database.fetch("SELECT user_id FROM remote_device_lists")
        return {UserId(row[0]) for row in rows}

    async def forget(self, user_ids: Collection[UserId]) -> None:
        """Deletes lists, with their due fetches."""
        async with self._database.transaction() as connection:
            await forget(connection, user_ids)

    async def mark_resyncs(self, user_ids: Collection[UserId], *, retry_at_ms: int) -> None:
        """See the function `mark_resyncs`."""
        async with self._database.connection() as connection:
            await mark_resyncs(connection, user_ids, retry_at_ms=retry_at_ms)

    async def due_resyncs(self, *, now_ms: int, limit: int) -> tuple[list[Resync], int | None]:
        """Returns due fetches, oldest first; and the time of the next one, if none is due. A fetch
        that would wait for longer than it was postponed by (the clock was set back since) is
        due."""
        rows = await self._database.fetch(
            "SELECT user_id, attempts, CASE WHEN retry_at_ms - $2 > least($4, $3 * 2"
            "  ^ least(greatest(attempts - 1, 0), 20)) THEN $2 ELSE retry_at_ms END AS due_ms"
            " FROM device_list_resyncs ORDER BY due_ms LIMIT $1",
            limit,
            now_ms,
            limits.RESYNC_RETRY_MS_MIN,
            limits.RESYNC_RETRY_MS_MAX,
        )
        found = [Resync(UserId(row[0]), row[1], row[2]) for row in rows]
        due = [resync for resync in found if resync.retry_at_ms <= now_ms]
        return due, None if due or not found else found[0].retry_at_ms

    async def postpone_resync(self, user_id: UserId, *, attempts: int, retry_at_ms: int) -> None:
        """Postpones a fetch that failed."""
        await self._database.execute(
            "UPDATE device_list_resyncs SET attempts = $2, retry_at_ms = $3 WHERE user_id = $1",
            user_id,
            attempts,
            retry_at_ms,
        )
