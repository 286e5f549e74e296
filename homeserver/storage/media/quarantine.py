"""Quarantined media. Owns the table `media_quarantined_contents`.

Rules:
1. A quarantine is of a URI and of its content: other URIs with the same content aren't served
   either, nor are those that come later.
2. A URI of another server can be quarantined before anybody asked for it.
3. The content stays in the store, for the operator to look at, until the media is deleted; its hash
   stays until the release.
"""

from __future__ import annotations

from federation.events.ids import UserId
from homeserver.rules.media.mxc import Mxc
from homeserver.rules.media.serving import OCTETS
from homeserver.storage.database import Connection, Database
from homeserver.storage.media.blob_store import Digest


class QuarantineTable:
    """What is quarantined."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, mxc: Mxc) -> bool:
        """Quarantines a known URI with its content; returns False for an unknown one."""
        async with self._database.transaction() as connection:
            return await _set(connection, mxc, is_quarantined=True)

    async def add_unseen(self, mxc: Mxc, *, now_ms: int) -> None:
        """Quarantines a URI of another server of which nothing is known, or was a moment ago."""
        await self._database.execute(
            "INSERT INTO media (origin, media_id, content_type, created_ms, last_access_ms,"
            " needs_token, is_quarantined) VALUES ($1, $2, $3, $4, $4, true, true)"
            " ON CONFLICT (origin, media_id) DO UPDATE SET is_quarantined = true",
            *mxc,
            OCTETS,
            now_ms,
        )

    async def release(self, mxc: Mxc) -> bool:
        """Ends the quarantine of a URI and of its content; returns False for an unknown URI."""
        async with self._database.transaction() as connection:
            return await _set(connection, mxc, is_quarantined=False)

    async def delete(self, mxc: Mxc) -> bool:
        """Deletes a URI; returns False for an unknown one."""
        found = await self._database.fetchval(
            "DELETE FROM media WHERE origin = $1 AND media_id = $2 RETURNING true", *mxc
        )
        return bool(found)

    async def delete_uploads(self, user_id: UserId) -> int:
        """Deletes everything that a user uploaded; returns the number of URIs."""
        count: int = await self._database.fetchval(
            "WITH gone AS (DELETE FROM media WHERE uploader = $1 RETURNING 1)"
            " SELECT count(*) FROM gone",
            user_id,
        )
        return count


async def _set(connection: Connection, mxc: Mxc, *, is_quarantined: bool) -> bool:
    row = await connection.fetchrow(
        "UPDATE media SET is_quarantined = $3 WHERE origin = $1 AND media_id = $2 RETURNING sha256",
        *mxc,
        is_quarantined,
    )
    if row is None:
        return False
    if row[0] is not None:
        await _set_content(connection, Digest(row[0]), is_quarantined=is_quarantined)
    return True


async def _set_content(connection: Connection, sha256: Digest, *, is_quarantined: bool) -> None:
    if is_quarantined:
        await connection.execute(
            "INSERT INTO media_quarantined_contents (sha256) VALUES ($1) ON CONFLICT DO NOTHING",
            sha256,
        )
    else:
        await connection.execute("DELETE FROM media_quarantined_contents WHERE sha256 = $1", sha256)
