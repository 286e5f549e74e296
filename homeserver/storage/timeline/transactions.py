"""The results of clients' transaction IDs. Owns the table `client_transactions`.

Spec: client-server API, "Transaction identifiers": they are scoped to the device and the path.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from homeserver.storage.database import Connection, Row


async def of_device(connection: Connection, user_id: str, device_id: str, limit: int) -> list[Row]:
    """Returns the newest transactions of a device: key, event ID, position."""
    return await connection.fetch(
        "SELECT key, event_id, position FROM client_transactions"
        " WHERE user_id = $1 AND device_id = $2 ORDER BY position DESC LIMIT $3",
        user_id,
        device_id,
        limit,
    )


async def find(connection: Connection, user_id: str, device_id: str, key: bytes) -> Row | None:
    """Returns one transaction of a device."""
    return await connection.fetchrow(
        "SELECT event_id, position FROM client_transactions"
        " WHERE user_id = $1 AND device_id = $2 AND key = $3",
        user_id,
        device_id,
        key,
    )


async def insert(connection: Connection, rows: Sequence[tuple[str, str, bytes, str, int]]) -> None:
    """Writes rows of (user_id, device_id, key, event_id, position)."""
    await connection.execute(
        "INSERT INTO client_transactions (user_id, device_id, key, event_id, position)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::bigint[])",
        *([row[i] for row in rows] for i in range(5)),
    )


async def forget_old(connection: Connection, days: int) -> None:
    """Deletes transactions that no client repeats any more."""
    await connection.execute(
        "DELETE FROM client_transactions WHERE sent_on < CURRENT_DATE - $1::integer", days
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
