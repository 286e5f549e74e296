"""Changes of users' devices and cross-signing keys, for sync and for other servers.

Rules:
1. The code that changes a device or key of a local user calls `touch` in the same unit of work that
   submits the DeviceListEntry; `append` then moves the touched devices to the entry's position.
   Both are in one transaction, so the auxiliary table is always empty outside of one.
2. A change without touched devices (`devices` empty, no cross-signing) means "fetch the whole
   list".
3. Stream IDs of a user's updates grow, by one for each device. They are at least the time (the
   database's, in milliseconds) times 1024, so that IDs that were used after a backup aren't reused
   when the backup is restored.

Spec: server-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from federation.events.ids import DeviceId, RoomId, UserId
from homeserver.storage.database import Connection, Row

IDS_PER_MS = 1024
CROSS_SIGNING = DeviceId("")
"""Stands for the cross-signing keys in `touch`."""


class DeviceListChange(msgspec.Struct, frozen=True):
    """One change: `previous` is the position of the user's change before it; `stream_id` the ID of
    its last update, after those of its other devices."""

    position: int
    user_id: UserId
    devices: tuple[DeviceId, ...]
    cross_signing: bool
    previous: int | None
    stream_id: int


class DeviceListRow(Protocol):
    """The fields of a log entry that `append` reads."""

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


async def changed_between(
    connection: Connection, users: Collection[UserId] | None, *, after: int, up_to: int
) -> set[UserId]:
    """Returns users (of `users`, or all) with a change at after < position <= up_to."""
    if users is None:
        rows = await connection.fetch(
            "SELECT DISTINCT user_id FROM device_list_changes"
            " WHERE position > $1 AND position <= $2",
            after,
            up_to,
        )
    else:
        rows = await connection.fetch(
            "SELECT DISTINCT user_id FROM device_list_changes"
            " WHERE user_id = ANY($1::text[]) AND position > $2 AND position <= $3",
            list(users),
            after,
            up_to,
        )
    return {UserId(row[0]) for row in rows}


async def load_changes(connection: Connection, *, after: int, up_to: int) -> list[DeviceListChange]:
    """Returns all changes with after < position <= up_to, in order."""
    rows = await connection.fetch(
        "SELECT position, user_id, devices, cross_signing, previous, stream_id"
        " FROM device_list_changes"
        " WHERE position > $1 AND position <= $2 ORDER BY position",
        after,
        up_to,
    )
    return [
        DeviceListChange(row[0], UserId(row[1]), tuple(row[2]), row[3], row[4], row[5])
        for row in rows
    ]


async def load_change(connection: Connection, position: int) -> DeviceListChange | None:
    """Returns the change at a position."""
    found = await load_changes(connection, after=position - 1, up_to=position)
    return found[0] if found else None


async def latest_stream_id(connection: Connection, user_id: UserId) -> int:
    """Returns the stream ID of a user's newest update, or 0."""
    stream_id: int | None = await connection.fetchval(
        "SELECT max(stream_id) FROM device_list_changes WHERE user_id = $1", user_id
    )
    return stream_id or 0


async def state_between(
    connection: Connection, room_ids: Collection[RoomId], *, after: int, up_to: int
) -> list[Row]:
    """Returns changes of members and of encryption of rooms in a stretch of the log, in order.
    Reads tables of `rooms` and `state_changes`, to make one query for all rooms of a reader."""
    rows: list[Row] = await connection.fetch(
        "SELECT r.room_id, c.type, c.state_key, c.event_id, c.membership, c.former"
        " FROM rooms r JOIN state_changes c USING (room_row_id) WHERE r.room_id = ANY($1::text[])"
        " AND c.type IN ('m.room.member', 'm.room.encryption')"
        " AND c.position > $2 AND c.position <= $3 ORDER BY c.position",
        list(room_ids),
        after,
        up_to,
    )
    return rows
