"""Identity keys of local devices, and the signatures that were added to keys later. Owns
`device_keys` and `key_signatures`.

Rules:
1. A device's keys never change once they are stored; `store_device_keys` returns whether it stored
   them.
2. Signatures are loaded for a viewer: those of each key's own user, and the viewer's own.

Spec: client-server API, "End-to-end encryption".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from federation.events.ids import DeviceId, UserId
from homeserver.storage.database import Connection, Database
from homeserver.storage.encryption import device_lists, one_time_keys, to_device
from homeserver.storage.encryption.cross_signing import CrossSigningKey


class KeySignature(msgspec.Struct, frozen=True):
    """A signature on a key of `user_id`: `target` is a device ID or a master key's public part."""

    user_id: UserId
    target: str
    signer: UserId
    key_id: str
    signature: str


class StoredKeys(msgspec.Struct, frozen=True):
    """Keys of local users, those of their devices as JSON and those for cross-signing by usage; and
    signatures on any of these keys."""

    devices: Mapping[UserId, Mapping[DeviceId, bytes]]
    signing: Mapping[UserId, Mapping[str, CrossSigningKey]]
    signatures: Sequence[KeySignature]


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


async def _load_signatures(
    connection: Connection, user_ids: Collection[UserId], viewer: UserId | None
) -> list[KeySignature]:
    rows = await connection.fetch(
        "SELECT user_id, target, signer, key_id, signature FROM key_signatures"
        " WHERE user_id = ANY($1::text[]) AND (signer = user_id OR signer = $2)",
        list(user_ids),
        viewer,
    )
    return [KeySignature(UserId(r[0]), r[1], UserId(r[2]), r[3], r[4]) for r in rows]


async def _load_keys(
    connection: Connection, user_ids: Collection[UserId], viewer: UserId | None
) -> StoredKeys:
    """Reads the table of `cross_signing` too, to make one query for all keys."""
    rows = await connection.fetch(
        "SELECT user_id, device_id AS name, NULL AS public_key, keys FROM device_keys"
        " WHERE user_id = ANY($1::text[])"
        " UNION ALL SELECT user_id, usage, public_key, key FROM cross_signing_keys"
        " WHERE user_id = ANY($1::text[]) ORDER BY user_id, name",
        list(user_ids),
    )
    devices: dict[UserId, dict[DeviceId, bytes]] = {}
    signing: dict[UserId, dict[str, CrossSigningKey]] = {}
    for user_id, name, public_key, key in rows:
        if public_key is None:
            devices.setdefault(UserId(user_id), {})[DeviceId(name)] = key
        else:
            own = signing.setdefault(UserId(user_id), {})
            own[name] = CrossSigningKey(name, public_key, key)
    users = devices.keys() | signing.keys()
    signatures = await _load_signatures(connection, users, viewer) if users else []
    return StoredKeys(devices, signing, signatures)


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


class DeviceKeyTable:
    """The keys of local devices, and the signatures on keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load_keys_of_device(self, user_id: UserId, device_id: DeviceId) -> bytes | None:
        """Returns one device's keys as JSON, or None."""
        async with self._database.connection() as connection:
            return await load_keys_of_device(connection, user_id, device_id)

    async def load_keys(
        self, user_ids: Collection[UserId], *, viewer: UserId | None = None
    ) -> StoredKeys:
        """Returns all keys of local users, with the signatures that were made by themselves, or by
        `viewer`."""
        async with self._database.connection() as connection:
            return await _load_keys(connection, user_ids, viewer)

    async def load_list(self, user_id: UserId) -> tuple[int, StoredKeys]:
        """Returns the stream ID of a local user's newest update, or 0, and the user's keys as of
        that update, with the user's own signatures."""
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            stream_id = await device_lists.latest_stream_id(connection, user_id)
            return stream_id, await _load_keys(connection, [user_id], None)

    async def load_signatures(
        self, user_ids: Collection[UserId], *, viewer: UserId | None
    ) -> list[KeySignature]:
        """Returns signatures on keys of users that were made by themselves, or by `viewer`."""
        async with self._database.connection() as connection:
            return await _load_signatures(connection, user_ids, viewer)

    async def load_verified(self, signer: UserId) -> set[UserId]:
        """Returns the other users whose master keys a user signed."""
        rows = await self._database.fetch(
            "SELECT DISTINCT user_id FROM key_signatures WHERE signer = $1 AND user_id <> $1",
            signer,
        )
        return {UserId(row[0]) for row in rows}
