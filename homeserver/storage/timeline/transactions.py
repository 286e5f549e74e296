"""The results of clients' transaction IDs. Owns the table `client_transactions`.

Spec: client-server API, "Transaction identifiers": they are scoped to the device and the path.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from federation.events.ids import EventId
from homeserver.storage.database import Connection, Database


class TransactionRow(msgspec.Struct, frozen=True, gc=False):
    """A transaction of a device, by the hash of its path and ID; the event that was sent, and its
    position."""

    key: bytes
    event_id: EventId
    position: int


async def insert(connection: Connection, rows: Sequence[tuple[str, str, bytes, str, int]]) -> None:
    """Writes rows of (user_id, device_id, key, event_id, position)."""
    await connection.execute(
        "INSERT INTO client_transactions (user_id, device_id, key, event_id, position)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::bigint[])",
        *([row[i] for row in rows] for i in range(5)),
    )


async def delete_devices(connection: Connection, user_id: str, device_ids: Collection[str]) -> None:
    """Deletes the transactions of removed devices: a later device with the same ID is another
    one.
    """
    await connection.execute(
        "DELETE FROM client_transactions WHERE user_id = $1 AND device_id = ANY($2::text[])",
        user_id,
        list(device_ids),
    )


class TransactionTable:
    """The transactions of all devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_device(self, user_id: str, device_id: str, limit: int) -> list[TransactionRow]:
        """Returns the newest transactions of a device, newest first."""
        rows = await self._database.fetch(
            "SELECT key, event_id, position FROM client_transactions"
            " WHERE user_id = $1 AND device_id = $2 ORDER BY position DESC LIMIT $3",
            user_id,
            device_id,
            limit,
        )
        return [TransactionRow(*row) for row in rows]

    async def find(self, user_id: str, device_id: str, key: bytes) -> TransactionRow | None:
        """Returns one transaction of a device."""
        row = await self._database.fetchrow(
            "SELECT key, event_id, position FROM client_transactions"
            " WHERE user_id = $1 AND device_id = $2 AND key = $3",
            user_id,
            device_id,
            key,
        )
        return None if row is None else TransactionRow(*row)

    async def forget_old(self, days: int) -> None:
        """Deletes transactions that no client repeats any more."""
        await self._database.execute(
            "DELETE FROM client_transactions WHERE sent_on < CURRENT_DATE - $1::integer", days
        )
