"""Signing keys that other servers published.

`ServerKeyTable` is the KeyStore of `federation.ports`. Owns the table `server_keys`.
`federation.transport.requests.keyring` decides which keys may be stored (signatures, validity).

Rules:
1. A key stays after its server has removed it from its document: old events are verified with it.
2. Each server has a bounded number of keys; the oldest are deleted, expired ones first.
3. The total is bounded, and that of servers without a shared room more narrowly, so that invented
   servers leave room for others. At the bound, stored keys are updated, and no others are stored.
   The table counts the rows once and then keeps count.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from federation.events.ids import KeyId, ServerName
from federation.ports import StoredServerKey
from homeserver import limits
from homeserver.storage.database import Connection, Database

log = logging.getLogger(__name__)


async def _save(
    connection: Connection, keys: Sequence[StoredServerKey], *, may_add: bool = True
) -> int:
    """Stores keys; a newer version of a key replaces the older. Returns by how many rows there are
    more now. `may_add`: whether keys that aren't stored yet are."""
    latest = {(key.server, key.key_id): key for key in keys}.values()
    added = await connection.fetch(
        "INSERT INTO server_keys (server, key_id, key, valid_until_ms, expired_ms)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])"
        " AS given (server, key_id, key, valid_until_ms, expired_ms)"
        " WHERE $6 OR EXISTS (SELECT FROM server_keys AS kept"
        " WHERE kept.server = given.server AND kept.key_id = given.key_id)"
        " ON CONFLICT (server, key_id) DO UPDATE SET key = excluded.key,"
        " valid_until_ms = excluded.valid_until_ms, expired_ms = excluded.expired_ms"
        " RETURNING xmax = 0",
        [key.server for key in latest],
        [key.key_id for key in latest],
        [key.key for key in latest],
        [key.valid_until_ms for key in latest],
        [key.expired_ms for key in latest],
        may_add,
    )
    return sum(row[0] for row in added)


async def _prune(connection: Connection, servers: Collection[ServerName]) -> int:
    """Deletes the keys over the bound of these servers (rule 2); returns how many."""
    done: str = await connection.execute(
        "DELETE FROM server_keys USING (SELECT server, key_id, row_number() OVER (PARTITION BY"
        " server ORDER BY expired_ms IS NULL DESC, coalesce(expired_ms, valid_until_ms) DESC,"
        " key_id) AS place FROM server_keys WHERE server = ANY($1::text[])) AS ranked"
        " WHERE place > $2 AND ranked.server = server_keys.server"
        " AND ranked.key_id = server_keys.key_id",
        list(servers),
        limits.SERVER_KEYS_PER_SERVER,
    )
    return int(done.split()[-1])


class ServerKeyTable:
    """The stored keys, and their number."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._count: int | None = None
        self._was_full = False

    async def load_keys(
        self, wanted: Collection[tuple[ServerName, KeyId]]
    ) -> list[StoredServerKey]:
        """Returns those of the wanted keys that are stored."""
        rows = await self._database.fetch(
            "SELECT server, key_id, key, valid_until_ms, expired_ms FROM server_keys"
            " JOIN unnest($1::text[], $2::text[]) AS wanted (server, key_id)"
            " USING (server, key_id)",
            [server for server, _ in wanted],
            [key_id for _, key_id in wanted],
        )
        return [StoredServerKey(*row) for row in rows]

    async def store_keys(
        self, keys: Sequence[StoredServerKey], *, neighbours: Collection[ServerName] = ()
    ) -> None:
        """Stores keys; a newer version of a key replaces the older. Durable when it returns.
        `neighbours`: those of the servers that share a room with us. Doesn't raise if there is no
        room (rule 3)."""
        theirs = [key for key in keys if key.server in neighbours]
        others = [key for key in keys if key.server not in neighbours]
        for some, most in (
            (theirs, limits.SERVER_KEYS),
            (others, min(limits.SERVER_KEYS, limits.SERVER_KEYS_OF_STRANGERS)),
        ):
            if some:
                await self._store(some, most)

    async def _store(self, keys: Sequence[StoredServerKey], most: int) -> None:
        async with self._database.transaction() as connection:
            if self._count is None:
                self._count = await connection.fetchval("SELECT count(*) FROM server_keys")
            has_room = self._count + len(keys) <= most
            added = await _save(connection, keys, may_add=has_room)
            dropped = await _prune(connection, {key.server for key in keys}) if added else 0
        self._count += added - dropped
        if not has_room and not self._was_full:
            log.warning("%d signing keys are kept: further ones aren't", self._count)
        self._was_full = not has_room
