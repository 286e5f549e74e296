"""The contents of the blob store. Owns the table `media_blobs`.

Rules:
1. A content's row is written before the content (`expect`), so that whatever is in the store has a
   row, whenever the writer dies.
2. A row refers to a content only after that was kept. Triggers count the references (migration
   0032), and refuse one to a content that is being deleted.
3. A content without references is deleted in three steps: `claim` marks it, the store deletes it,
   `forget` deletes the row. A marked content can't be expected before it is forgotten, so that a
   writer never keeps what is just being deleted. Whoever comes next finishes what was claimed.
4. Only one process or task sweeps at a time: a second one, with the same content on its list, could
   delete it once the first has forgotten it and somebody has stored it again. Claims are those of
   the connection that has the lock, and end with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from homeserver import limits
from homeserver.storage.database import Connection, Database
from homeserver.storage.media.blob_store import BlobContent, Digest

_SWEEPING = "hashtextextended('sweep of media_blobs', 0)"


class BlobTable:
    """The contents that the store has, or may have."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expect(self, content: BlobContent, *, now_ms: int) -> bool:
        """Notes that a content is about to be put into the store; for `MEDIA_UNREFERENCED_MS` it
        isn't deleted. Returns False if it is being deleted just now."""
        noted = await self._database.fetchval(
            "INSERT INTO media_blobs (sha256, size, written_ms) VALUES ($1, $2, $3)"
            " ON CONFLICT (sha256) DO UPDATE SET written_ms = $3"
            " WHERE NOT media_blobs.is_deleting RETURNING true",
            content.sha256,
            content.size,
            now_ms,
        )
        return bool(noted)

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[BlobSweep | None]:
        """The one sweep that may be under way; None while there is another."""
        async with self._database.connection() as connection:
            if not await connection.fetchval(f"SELECT pg_try_advisory_lock({_SWEEPING})"):
                yield None
                return
            try:
                yield BlobSweep(connection)
            finally:
                await connection.execute(f"SELECT pg_advisory_unlock({_SWEEPING})")

    async def stored_bytes(self) -> int:
        """Returns the size of all contents together, each counted once."""
        total: int = await self._database.fetchval(
            "SELECT coalesce(sum(size), 0)::bigint FROM media_blobs"
        )
        return total


class BlobSweep:
    """Deletes contents that nothing refers to, over the connection that has the lock."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def claim(self, *, before_ms: int) -> list[Digest]:
        """Marks contents without references, written before a time, to be deleted; returns those
        and others that are marked already, at most `MEDIA_DELETED_AT_ONCE`."""
        rows = await self._connection.fetch(
            "UPDATE media_blobs SET is_deleting = true WHERE sha256 IN ("
            "SELECT sha256 FROM media_blobs WHERE reference_count = 0"
            " AND (is_deleting OR written_ms < $1) ORDER BY sha256 LIMIT $2"
            " FOR UPDATE SKIP LOCKED) RETURNING sha256",
            before_ms,
            limits.MEDIA_DELETED_AT_ONCE,
        )
        return [Digest(row[0]) for row in rows]

    async def forget(self, sha256: Digest) -> None:
        """Deletes the row of a claimed content that the store has deleted."""
        await self._connection.execute(
            "DELETE FROM media_blobs WHERE sha256 = $1 AND is_deleting AND reference_count = 0",
            sha256,
        )
