"""Signing keys that other servers published.

This is the KeyStore of `federation.ports`. Owns the table `server_keys`. What may be stored
(signatures, validity) is `federation.transport.keyring`'s to decide.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from federation.events.ids import KeyId, ServerName
from federation.ports import StoredServerKey
from homeserver.storage.database import Connection, Database


async def load(
    connection: Connection, wanted: Collection[tuple[ServerName, KeyId]]
) -> list[StoredServerKey]:
    """Those of the wanted keys that are stored."""
    rows = await connection.fetch(
        "SELECT server, key_id, key, valid_until_ms, expired_ms FROM server_keys"
        " JOIN unnest($1::text[], $2::text[]) AS wanted (server, key_id)"
        " USING (server, key_id)",
        [server for server, _ in wanted],
        [key_id for _, key_id in wanted],
    )
    return [StoredServerKey(*row) for row in rows]


async def save(connection: Connection, keys: Sequence[StoredServerKey]) -> None:
    """Keeps keys; a newer word on a key replaces the older. One row for each key at most."""
    latest = {(key.server, key.key_id): key for key in keys}.values()
    await connection.execute(
        "INSERT INTO server_keys (server, key_id, key, valid_until_ms, expired_ms)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])"
        " ON CONFLICT (server, key_id) DO UPDATE SET key = excluded.key,"
        " valid_until_ms = excluded.valid_until_ms, expired_ms = excluded.expired_ms",
        [key.server for key in latest],
        [key.key_id for key in latest],
        [key.key for key in latest],
        [key.valid_until_ms for key in latest],
        [key.expired_ms for key in latest],
    )


class ServerKeys:
    """The KeyStore over a pool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load_keys(
        self, wanted: Collection[tuple[ServerName, KeyId]]
    ) -> list[StoredServerKey]:
        """See `load`."""
        async with self._database.connection() as connection:
            return await load(connection, wanted)

    async def store_keys(self, keys: Sequence[StoredServerKey]) -> None:
        """See `save`; durable when it returns."""
        async with self._database.connection() as connection:
            await save(connection, keys)
