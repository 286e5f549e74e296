"""One-time keys and fallback keys of local devices. Owns `one_time_keys`, `claimed_keys` and
`fallback_keys`.

Rules:
1. A one-time key is handed out once: `claim` moves the returned keys to `claimed_keys`, in one
   statement; keys in that table are never stored again while the device exists.
2. Oldest first, by order of upload.
3. A fallback key is handed out if no one-time key is left, and is then marked as used.

Spec: client-server API, "One-time and fallback keys".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256

import msgspec

from federation.events import canonical_json
from federation.events.ids import DeviceId, UserId
from homeserver.storage.database import Connection, Database

_NOT_SIGNED = frozenset({"signatures", "unsigned"})


class UploadedKey(msgspec.Struct, frozen=True):
    """A key that a device uploaded: JSON of a string or an object."""

    algorithm: str
    key_id: str
    key: bytes


class Claim(msgspec.Struct, frozen=True):
    """A claim for one key of a device."""

    user_id: UserId
    device_id: DeviceId
    algorithm: str


class KeyCounts(msgspec.Struct, frozen=True):
    """A device's unclaimed one-time keys by algorithm, and the algorithms with an unused fallback
    key, in order."""

    one_time: Mapping[str, int]
    unused_fallback: tuple[str, ...]


async def lock(connection: Connection, user_id: UserId, device_id: DeviceId) -> None:
    """Serialises the uploads of one device until the end of the transaction."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1 || ' ' || $2, 4))", user_id, device_id
    )


async def load_same(
    connection: Connection, user_id: UserId, device_id: DeviceId, keys: Sequence[UploadedKey]
) -> dict[tuple[str, str], bytes]:
    """Returns those keys that were stored under the same algorithm and ID, handed out or not:
    (algorithm, ID) to `key_digest`."""
    rows = await connection.fetch(
        "SELECT k.algorithm, k.key_id, k.key, k.digest FROM ("
        "  SELECT algorithm, key_id, key, NULL AS digest FROM one_time_keys"
        "  WHERE user_id = $1 AND device_id = $2"
        "  UNION ALL SELECT algorithm, key_id, NULL, digest FROM claimed_keys"
        "  WHERE user_id = $1 AND device_id = $2) k"
        " JOIN unnest($3::text[], $4::text[]) AS w (algorithm, key_id)"
        " ON w.algorithm = k.algorithm AND w.key_id = k.key_id",
        user_id,
        device_id,
        [key.algorithm for key in keys],
        [key.key_id for key in keys],
    )
    return {(row[0], row[1]): row[3] or key_digest(row[2]) for row in rows}


def key_digest(key: bytes) -> bytes:
    """Returns a digest that identifies a key's JSON: signatures may be renewed."""
    value = canonical_json.decode(key)
    if isinstance(value, dict):
        bare = {name: part for name, part in value.items() if name not in _NOT_SIGNED}
        key = canonical_json.encode(bare)
    return sha256(key).digest()[:16]


async def store(
    connection: Connection, user_id: UserId, device_id: DeviceId, keys: Sequence[UploadedKey]
) -> None:
    """Adds one-time keys, in order; IDs must be new."""
    await connection.execute(
        "INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, key)"
        " SELECT $1, $2, k.algorithm, k.key_id, k.key FROM"
        " unnest($3::text[], $4::text[], $5::bytea[]) WITH ORDINALITY"
        " AS k (algorithm, key_id, key, number) ORDER BY k.number",
        user_id,
        device_id,
        [key.algorithm for key in keys],
        [key.key_id for key in keys],
        [key.key for key in keys],
    )


async def store_fallback(
    connection: Connection, user_id: UserId, device_id: DeviceId, keys: Sequence[UploadedKey]
) -> None:
    """Sets a device's fallback keys, unused; the same key again keeps its mark."""
    await connection.executemany(
        "INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, key)"
        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id, device_id, algorithm) DO UPDATE"
        " SET key_id = excluded.key_id, key = excluded.key,"
        " used = fallback_keys.used AND fallback_keys.key = excluded.key",
        [(user_id, device_id, key.algorithm, key.key_id, key.key) for key in keys],
    )


async def count(connection: Connection, user_id: UserId, device_id: DeviceId) -> int:
    """Returns the number of a device's unclaimed one-time keys."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM one_time_keys WHERE user_id = $1 AND device_id = $2",
        user_id,
        device_id,
    )
    return found


async def delete_devices(
    connection: Connection, user_id: UserId, device_ids: Collection[DeviceId]
) -> None:
    """Deletes the keys of devices."""
    for table in ("one_time_keys", "claimed_keys", "fallback_keys"):
        await connection.execute(
            f"DELETE FROM {table} WHERE user_id = $1 AND device_id = ANY($2::text[])",
            user_id,
            list(device_ids),
        )


# The key is chosen before anything is deleted: as a subquery, a plan may choose anew for each row,
# and hand out one key while all are deleted.
_CLAIM = """
WITH chosen AS MATERIALIZED (
    SELECT user_id, device_id, algorithm, key_id FROM one_time_keys
    WHERE user_id = $1 AND device_id = $2 AND algorithm = $3
    ORDER BY sequence LIMIT 1 FOR UPDATE SKIP LOCKED
)
DELETE FROM one_time_keys USING chosen
WHERE one_time_keys.user_id = chosen.user_id AND one_time_keys.device_id = chosen.device_id
    AND one_time_keys.algorithm = chosen.algorithm AND one_time_keys.key_id = chosen.key_id
RETURNING one_time_keys.key_id, one_time_keys.key
"""

_CLAIM_FALLBACK = """
UPDATE fallback_keys SET used = true
WHERE user_id = $1 AND device_id = $2 AND algorithm = $3
RETURNING key_id, key
"""


class OneTimeKeyTable:
    """The one-time keys and fallback keys of local devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def counts(self, user_id: UserId, device_id: DeviceId) -> KeyCounts:
        """Returns what is left of a device's keys."""
        async with self._database.connection() as connection:
            unclaimed = await connection.fetch(
                "SELECT algorithm, count(*) FROM one_time_keys"
                " WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm",
                user_id,
                device_id,
            )
            unused = await connection.fetch(
                "SELECT algorithm FROM fallback_keys"
                " WHERE user_id = $1 AND device_id = $2 AND NOT used ORDER BY algorithm",
                user_id,
                device_id,
            )
        return KeyCounts({row[0]: row[1] for row in unclaimed}, tuple(row[0] for row in unused))

    async def claim(
        self, claims: Collection[Claim], *, fallback_only: bool = False
    ) -> dict[Claim, UploadedKey]:
        """Hands out one key for each claim, if there is one. All requests process claims in the
        same order, so that no deadlock occurs. `fallback_only`: no one-time keys."""
        found: dict[Claim, UploadedKey] = {}
        handed_out = []
        async with self._database.transaction() as connection:
            for wanted in sorted(set(claims), key=lambda c: (c.user_id, c.device_id, c.algorithm)):
                device = (wanted.user_id, wanted.device_id, wanted.algorithm)
                row = None if fallback_only else await connection.fetchrow(_CLAIM, *device)
                if row is not None:
                    handed_out.append((*device, row["key_id"], key_digest(row["key"])))
                else:
                    row = await connection.fetchrow(_CLAIM_FALLBACK, *device)
                if row is not None:
                    found[wanted] = UploadedKey(wanted.algorithm, row["key_id"], row["key"])
            await connection.executemany(
                "INSERT INTO claimed_keys (user_id, device_id, algorithm, key_id, digest)"
                " VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                handed_out,
            )
        return found
