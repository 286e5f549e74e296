"""Changes of users' devices and cross-signing keys, for sync and for other servers.
Owns `device_list_changes` and `device_list_touched`.

Rules:
1. The code that changes a device or key of a local user calls `touch` in the same unit of work that
   submits the DeviceListEntry; `append` then moves the touched devices to the entry's position.
   Both are in one transaction, so the auxiliary table is always empty outside of one.
2. A change without touched devices (`devices` empty, no cross-signing) concerns clients of this
   server alone: a change of a remote user, or a signature on another user's key.
3. Stream IDs of a user's updates grow, by one for each device. They are at least the time (the
   database's, in milliseconds) times 1024, so that IDs that were used after a backup aren't reused
   when the backup is restored.

Spec: server-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from federation.events.ids import DeviceId, EventId, RoomId, StateKey, UserId
from homeserver.storage.database import Connection, Database
from homeserver.storage.text import unescape

IDS_PER_MS = 1024
CROSS_SIGNING = DeviceId("")
"""Stands for the cross-signing keys in `touch`."""


class DeviceListChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change: `stream_id` is the ID of its last update, after those of its other devices;
    `previous_id` that of the user's change before it, None for the first."""

    position: int
    user_id: UserId
    devices: tuple[DeviceId, ...]
    cross_signing: bool
    stream_id: int
    previous_id: int | None


class RoomChange(msgspec.Struct, frozen=True):
    """A change of a room's current state: `membership` and `former`, the one before it, are those
    of a member; `event_id` is None for a key that has no event any more."""

    room_id: RoomId
    key: StateKey
    event_id: EventId | None
    membership: str | None
    former: str | None


class DeviceListRow(Protocol):
    """The field of a log entry that `append` stores; the log's entries belong to a layer above."""

    @property
    def user_id(self) -> UserId: ...


async def touch(connection: Connection, user_id: UserId, device_ids: Collection[DeviceId]) -> None:
    """Notes the devices of a local user that this unit of work adds, changes or removes."""
    await connection.execute(
        "INSERT INTO device_list_touched (user_id, device_id)"
        " SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
        user_id,
        sorted(device_ids),
    )


async def append(connection: Connection, rows: Sequence[tuple[int, DeviceListRow]]) -> None:
    """Stores the entries of a batch, with the devices touched in the batch."""
    users = list({entry.user_id for _, entry in rows})
    touched = await connection.fetch(
        "DELETE FROM device_list_touched WHERE user_id = ANY($1::text[])"
        " RETURNING user_id, device_id",
        users,
    )
    by_user: dict[str, list[str]] = {}
    for row in touched:
        by_user.setdefault(row["user_id"], []).append(row["device_id"])
    previous: dict[str, tuple[int, int]] = {
        row[0]: (row[1], row[2])
        for row in await connection.fetch(
            "SELECT user_id, max(position), max(stream_id) FROM device_list_changes"
            " WHERE user_id = ANY($1::text[]) GROUP BY user_id",
            users,
        )
    }
    now_id = await stream_id_now(connection)
    records = []
    for position, entry in rows:
        touched_ids = by_user.get(entry.user_id, [])
        devices = [device for device in touched_ids if device != CROSS_SIGNING]
        before, last_id = previous.get(entry.user_id, (None, 0))
        stream_id = max(last_id, now_id) + max(len(devices), 1)
        has_signing = CROSS_SIGNING in touched_ids
        records.append((position, entry.user_id, devices, has_signing, before, stream_id))
        previous[entry.user_id] = (position, stream_id)
    await connection.executemany(
        "INSERT INTO device_list_changes (position, user_id, devices, cross_signing, previous,"
        " stream_id) VALUES ($1, $2, $3::text[], $4, $5, $6)",
        records,
    )


async def stream_id_now(connection: Connection) -> int:
    """Returns the least stream ID that an update of this moment may have, less one."""
    now_ms: int = await connection.fetchval(
        "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    )
    return now_ms * IDS_PER_MS


async def latest_stream_id(connection: Connection, user_id: UserId) -> int:
    """Returns the stream ID of a user's newest update, or 0."""
    stream_id: int | None = await connection.fetchval(
        "SELECT max(stream_id) FROM device_list_changes WHERE user_id = $1", user_id
    )
    return stream_id or 0


class DeviceListTable:
    """The changes of device lists."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def changed_between(self, *, after: int, up_to: int) -> set[UserId]:
        """Returns the users with a change at after < position <= up_to."""
        rows = await self._database.fetch(
            "SELECT DISTINCT user_id FROM device_list_changes"
            " WHERE position > $1 AND position <= $2",
            after,
            up_to,
        )
        return {UserId(row[0]) for row in rows}

    async def load_changes(self, positions: Collection[int]) -> list[DeviceListChange]:
        """Returns the changes at these positions, in order; positions without a change are left
        out."""
        rows = await self._database.fetch(
            "SELECT c.position, c.user_id, c.devices, c.cross_signing, c.stream_id, p.stream_id"
            " FROM device_list_changes c LEFT JOIN device_list_changes p"
            " ON p.position = c.previous"
            " WHERE c.position = ANY($1::bigint[]) ORDER BY c.position",
            list(positions),
        )
        return [
            DeviceListChange(
                position=row[0],
                user_id=UserId(row[1]),
                devices=tuple(DeviceId(device_id) for device_id in row[2]),
                cross_signing=row[3],
                stream_id=row[4],
                previous_id=row[5],
            )
            for row in rows
        ]

    async def stream_id_now(self) -> int:
        """See the function `stream_id_now`."""
        async with self._database.connection() as connection:
            return await stream_id_now(connection)

    async def state_between(
        self, room_ids: Collection[RoomId], *, after: int, up_to: int
    ) -> list[RoomChange]:
        """Returns changes of members and of encryption of rooms in a stretch of the log, in order.
        Reads tables of `rooms` and `state_changes`, to make one query for all rooms of a reader."""
        rows = await self._database.fetch(
            "SELECT r.room_id, c.type, c.state_key, c.event_id, c.membership, c.former"
            " FROM rooms r JOIN state_changes c USING (room_row_id)"
            " WHERE r.room_id = ANY($1::text[])"
            " AND c.type IN ('m.room.member', 'm.room.encryption')"
            " AND c.position > $2 AND c.position <= $3 ORDER BY c.position",
            list(room_ids),
            after,
            up_to,
        )
        return [
            RoomChange(RoomId(row[0]), (unescape(row[1]), unescape(row[2])), *row[3:])
            for row in rows
        ]
