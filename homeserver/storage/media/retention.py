"""Lets go of media in the table `media`: what is too old, too much, or of a user who was erased.

Quarantined media stay, so that they stay quarantined.
"""

from __future__ import annotations

import msgspec

from federation.events.ids import ServerName
from homeserver import limits
from homeserver.storage.database import Database

_KEPT = "(origin = $1) = $2 AND sha256 IS NOT NULL AND NOT is_quarantined"
_DELETED = "WITH gone AS (DELETE FROM media WHERE {where} RETURNING 1) SELECT count(*) FROM gone"


class MediaClass(msgspec.Struct, frozen=True):
    """The media of this server, or those of all others."""

    server_name: ServerName
    is_local: bool


class RetentionTable:
    """Deletions of many rows, at most `MEDIA_DELETED_AT_ONCE` at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete_old(
        self, which: MediaClass, *, created_before_ms: int, unused_since_ms: int
    ) -> int:
        """Deletes media that came before a time, or weren't read since a time; returns how many, 0
        if none are left."""
        return await self._delete(
            "(origin, media_id) IN (SELECT origin, media_id FROM media"
            f" WHERE {_KEPT} AND (created_ms < $3 OR last_access_ms < $4) LIMIT $5)",
            which.server_name,
            which.is_local,
            created_before_ms,
            unused_since_ms,
            limits.MEDIA_DELETED_AT_ONCE,
        )

    async def total_bytes(self, which: MediaClass) -> int:
        """Returns the size of all media together, each URI counted."""
        total: int = await self._database.fetchval(
            f"SELECT coalesce(sum(size), 0)::bigint FROM media WHERE {_KEPT}",
            which.server_name,
            which.is_local,
        )
        return total

    async def delete_excess(self, which: MediaClass, excess_bytes: int) -> int:
        """Deletes the media that weren't read for longest, until so many bytes are gone or
        `MEDIA_DELETED_AT_ONCE` media are; returns the bytes that are gone."""
        gone: int = await self._database.fetchval(
            "WITH oldest AS (SELECT origin, media_id, size, last_access_ms FROM media"
            f" WHERE {_KEPT} AND size > 0 ORDER BY last_access_ms, origin, media_id LIMIT $3),"
            " summed AS (SELECT origin, media_id, sum(size) OVER"
            " (ORDER BY last_access_ms, origin, media_id) - size AS before FROM oldest),"
            " gone AS (DELETE FROM media WHERE (origin, media_id) IN"
            " (SELECT origin, media_id FROM summed WHERE before < $4) RETURNING size)"
            " SELECT coalesce(sum(size), 0)::bigint FROM gone",
            which.server_name,
            which.is_local,
            limits.MEDIA_DELETED_AT_ONCE,
            excess_bytes,
        )
        return gone

    async def delete_expired(self, *, now_ms: int) -> int:
        """Deletes IDs that were given out and whose time is over; returns how many."""
        return await self._delete("expires_ms <= $1", now_ms)

    async def delete_erased(self) -> int:
        """Deletes the uploads of erased users, quarantined ones too; returns how many, 0 if none
        are left. What stays quarantined is the content."""
        return await self._delete(
            "(origin, media_id) IN (SELECT origin, media_id FROM media JOIN accounts"
            " ON user_id = uploader WHERE erased_at IS NOT NULL LIMIT $1)",
            limits.MEDIA_DELETED_AT_ONCE,
        )

    async def _delete(self, where: str, *values: object) -> int:
        count: int = await self._database.fetchval(_DELETED.format(where=where), *values)
        return count
