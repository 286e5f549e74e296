"""Messages that wait for local devices, and the records that keep a repeated request from sending
twice. Owns `to_device_messages`, `to_device_transactions` and `remote_to_device_seen`.

A message stays until its device acknowledged a later sync position; deletion is lazy (design,
"What keeps it right", rule 11). Spec: client-server API, "Send-to-Device messaging".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from federation.events.ids import DeviceId, ServerName, UserId
from homeserver.storage.database import Connection, Database


class ToDeviceRow(Protocol):
    """The fields of a log entry that `append` stores; the log's entries belong to a layer above."""

    @property
    def user_id(self) -> UserId: ...

    @property
    def device_id(self) -> DeviceId: ...

    @property
    def message(self) -> bytes: ...

    @property
    def sender(self) -> UserId: ...


class WaitingCount(msgspec.Struct, frozen=True):
    """The messages of one user of another server that wait for a device: their number, and their
    bytes together."""

    user_id: UserId
    device_id: DeviceId
    sender: UserId
    messages: int
    bytes: int


async def append(connection: Connection, rows: Sequence[tuple[int, ToDeviceRow]]) -> None:
    """Stores the entries of a batch."""
    await connection.execute(
        "INSERT INTO to_device_messages (user_id, device_id, position, message, sender)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::text[])",
        [entry.user_id for _, entry in rows],
        [entry.device_id for _, entry in rows],
        [position for position, _ in rows],
        [entry.message for _, entry in rows],
        [entry.sender or None for _, entry in rows],
    )


async def remember_transaction(
    connection: Connection, key: tuple[UserId, DeviceId, str, str], *, now_ms: int
) -> bool:
    """Records a request (user, device, event type, transaction ID); returns False if it was made
    before.
    """
    done: str = await connection.execute(
        "INSERT INTO to_device_transactions"
        " (user_id, device_id, event_type, transaction_id, sent_ms)"
        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        *key,
        now_ms,
    )
    return done.endswith(" 1")


async def remember_remote(
    connection: Connection, origin: ServerName, message_id: str, *, now_ms: int
) -> bool:
    """Records an EDU of another server; returns False if it came before."""
    done: str = await connection.execute(
        "INSERT INTO remote_to_device_seen (origin, message_id, received_ms)"
        " VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        origin,
        message_id,
        now_ms,
    )
    return done.endswith(" 1")


async def delete_devices(
    connection: Connection, user_id: UserId, device_ids: Collection[DeviceId]
) -> None:
    """Deletes the waiting messages of removed devices."""
    for table in ("to_device_messages", "to_device_transactions"):
        await connection.execute(
            f"DELETE FROM {table} WHERE user_id = $1 AND device_id = ANY($2::text[])",
            user_id,
            list(device_ids),
        )


class ToDeviceTable:
    """The messages that wait for local devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(
        self, user_id: UserId, device_id: DeviceId, *, after: int, up_to: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """Returns the oldest `limit` messages (position, JSON) of a device with after < position <=
        up_to."""
        rows = await self._database.fetch(
            "SELECT position, message FROM to_device_messages WHERE user_id = $1 AND device_id = $2"
            " AND position > $3 AND position <= $4 ORDER BY position LIMIT $5",
            user_id,
            device_id,
            after,
            up_to,
            limit,
        )
        return [(row[0], row[1]) for row in rows]

    async def newest(self) -> dict[tuple[UserId, DeviceId], int]:
        """Returns the position of the newest message of each device that has any."""
        rows = await self._database.fetch(
            "SELECT user_id, device_id, max(position) FROM to_device_messages"
            " GROUP BY user_id, device_id"
        )
        return {(UserId(row[0]), DeviceId(row[1])): row[2] for row in rows}

    async def count_by_sender(
        self, devices: Collection[tuple[UserId, DeviceId]]
    ) -> list[WaitingCount]:
        """Returns what waits for each of these devices, by each user of another server."""
        rows = await self._database.fetch(
            "SELECT user_id, device_id, sender, count(*), sum(octet_length(message))"
            " FROM to_device_messages"
            " JOIN unnest($1::text[], $2::text[]) AS wanted (user_id, device_id)"
            " USING (user_id, device_id)"
            " WHERE sender IS NOT NULL GROUP BY user_id, device_id, sender",
            [user_id for user_id, _ in devices],
            [device_id for _, device_id in devices],
        )
        return [WaitingCount(*row) for row in rows]

    async def delete(self, user_id: UserId, device_id: DeviceId, up_to: int) -> None:
        """Deletes a device's messages up to a position."""
        await self._database.execute(
            "DELETE FROM to_device_messages"
            " WHERE user_id = $1 AND device_id = $2 AND position <= $3",
            user_id,
            device_id,
            up_to,
        )

    async def forget_transactions(self, *, before_ms: int) -> None:
        """Deletes records of requests that are older than `before_ms`."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "DELETE FROM to_device_transactions WHERE sent_ms < $1", before_ms
            )
            await connection.execute(
                "DELETE FROM remote_to_device_seen WHERE received_ms < $1", before_ms
            )
