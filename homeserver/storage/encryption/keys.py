"""Identity keys of local devices, and the signatures that were added to keys later.

Rules:
1. A device's keys never change once they are stored; `store_device_keys` returns whether it stored
   them.
2. The caller decides which signatures a viewer sees; `load_signatures` takes the signers.

Spec: client-server API, "End-to-end encryption".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from federation.events.ids import DeviceId, UserId
from homeserver.storage.database import Connection
from homeserver.storage.encryption import device_lists, one_time_keys, to_device


class KeySignature(msgspec.Struct, frozen=True):
    """A signature on a key of `user_id`: `target` is a device ID or a master key's public part."""

    user_id: UserId
    target: str
    signer: UserId
    key_id: str
    signature: str


async def store_device_keys(
    connection: Connection, user_id: UserId, device_id: DeviceId, keys: bytes
) -> bool:
    """Stores a device's keys (JSON); returns False if it has keys already."""
    done: str = await connection.execute(
        "INSERT INTO device_keys (user_id, device_id, keys) VALUES ($1, $2, $3)"
        " ON CONFLICT DO NOTHING",
        user_id,
        device_id,
        keys,
    )
    return done.endswith(" 1")


async def load_device_keys(
    connection: Connection, user_ids: Collection[UserId]
) -> dict[UserId, dict[DeviceId, bytes]]:
    """Returns the keys of all devices of local users, as JSON."""
    rows = await connection.fetch(
        "SELECT user_id, device_id, keys FROM device_keys WHERE user_id = ANY($1::text[])"
        " ORDER BY user_id, device_id",
        list(user_ids),
    )
    found: dict[UserId, dict[DeviceId, bytes]] = {}
    for row in rows:
        found.setdefault(UserId(row[0]), {})[DeviceId(row[1])] = row[2]
    return found


async def load_keys_of_device(
    connection: Connection, user_id: UserId, device_id: DeviceId
) -> bytes | None:
    """Returns one device's keys as JSON, or None."""
    keys: bytes | None = await connection.fetchval(
        "SELECT keys FROM device_keys WHERE user_id = $1 AND device_id = $2", user_id, device_id
    )
    return keys


async def store_signatures(connection: Connection, signatures: Sequence[KeySignature]) -> None:
    """Adds signatures; a newer one by the same key replaces the older."""
    newest = {(s.user_id, s.target, s.signer, s.key_id): s for s in signatures}
    await connection.executemany(
        "INSERT INTO key_signatures (user_id, target, signer, key_id, signature)"
        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, target, signer, key_id)"
        " DO UPDATE SET signature = excluded.signature",
        [(s.user_id, s.target, s.signer, s.key_id, s.signature) for s in newest.values()],
    )


async def load_signatures(
    connection: Connection, user_ids: Collection[UserId], *, viewer: UserId | None
) -> list[KeySignature]:
    """Returns signatures on keys of users that were made by themselves, or by `viewer`."""
    rows = await connection.fetch(
        "SELECT user_id, target, signer, key_id, signature FROM key_signatures"
        " WHERE user_id = ANY($1::text[]) AND (signer = user_id OR signer = $2)",
        list(user_ids),
        viewer,
    )
    return [KeySignature(UserId(r[0]), r[1], UserId(r[2]), r[3], r[4]) for r in rows]


async def load_verified(connection: Connection, signer: UserId) -> set[UserId]:
    """Returns the other users whose master keys a user signed."""
    rows = await connection.fetch(
        "SELECT DISTINCT user_id FROM key_signatures WHERE signer = $1 AND user_id <> $1", signer
    )
    return {UserId(row[0]) for row in rows}


async def forget_devices(
    connection: Connection, user_id: UserId, device_ids: Collection[DeviceId]
) -> None:
    """Deletes the data of devices that are being deleted: keys, one-time keys, waiting messages,
    signatures; and touches the user's device list, so the caller's unit must have a
    DeviceListEntry."""
    await connection.execute(
        "DELETE FROM device_keys WHERE user_id = $1 AND device_id = ANY($2::text[])",
        user_id,
        list(device_ids),
    )
    await connection.execute(
        "DELETE FROM key_signatures WHERE user_id = $1 AND target = ANY($2::text[])",
        user_id,
        list(device_ids),
    )
    await one_time_keys.delete_devices(connection, user_id, device_ids)
    await to_device.delete_devices(connection, user_id, device_ids)
    await device_lists.touch(connection, user_id, device_ids)
