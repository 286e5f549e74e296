"""Thumbnails of contents. Owns the table `media_thumbnails`.

Rules:
1. A thumbnail belongs to a content, not to a URI: the same picture under two URIs has one. It goes
   with its content (a cascade of migration 0034), or once no URI has that content any more: one
   content may be its own thumbnail, or two be each other's, and none would ever be let go.
2. What another server made is shown for that server's media alone: it may show anything.
3. The thumbnail's own content is in the store before its row is (`storage.media`).
"""

from __future__ import annotations

import msgspec

from homeserver import limits
from homeserver.rules.media.thumbnail_sizes import Shape
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobContent, Digest


class ThumbnailKey(msgspec.Struct, frozen=True):
    """A content, the shape of the thumbnail, whether an animation is asked for, and the server that
    makes it ("" for this one)."""

    source: Digest
    shape: Shape
    is_animated: bool
    maker: str = ""


class StoredThumbnail(msgspec.Struct, frozen=True):
    """A thumbnail's type and content; without content the source itself is the thumbnail.
    `is_quarantined`: the content is."""

    content_type: str
    content: BlobContent | None
    is_quarantined: bool = False


class ThumbnailTable:
    """The thumbnails that were made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, key: ThumbnailKey) -> StoredThumbnail | None:
        """Returns a thumbnail; None if it wasn't made."""
        row = await self._database.fetchrow(
            "SELECT content_type, sha256, size, EXISTS (SELECT FROM media_quarantined_contents q"
            " WHERE q.sha256 = media_thumbnails.sha256) AS is_quarantined"
            " FROM media_thumbnails WHERE source = $1 AND method = $2 AND width = $3"
            " AND height = $4 AND is_animated = $5 AND maker = $6",
            *_values(key),
        )
        if row is None:
            return None
        content = None
        if row["sha256"] is not None:
            content = BlobContent(Digest(row["sha256"]), row["size"])
        return StoredThumbnail(row["content_type"], content, row["is_quarantined"])

    async def keep(self, key: ThumbnailKey, thumbnail: StoredThumbnail) -> None:
        """Stores a thumbnail whose content the store has kept, if its source is still there."""
        sha256, size = thumbnail.content or (None, None)
        await self._database.execute(
            "INSERT INTO media_thumbnails (source, method, width, height, is_animated, maker,"
            " content_type, sha256, size) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9"
            " WHERE EXISTS (SELECT FROM media_blobs WHERE sha256 = $1 AND NOT is_deleting"
            " FOR KEY SHARE)"
            " ON CONFLICT (source, method, width, height, is_animated, maker) DO UPDATE SET"
            " content_type = excluded.content_type, sha256 = excluded.sha256,"
            " size = excluded.size",
            *_values(key),
            thumbnail.content_type,
            sha256,
            size,
        )

    async def delete_excess(self) -> int:
        """Deletes what other servers made beyond `MEDIA_REMOTE_THUMBNAILS_BYTES`, the older ones
        roughly; returns how many. They are fetched again when they are asked for."""
        count: int = await self._database.fetchval(
            "WITH summed AS (SELECT ctid, sum(size) OVER (ORDER BY ctid DESC) AS bytes"
            " FROM media_thumbnails WHERE maker <> ''),"
            " gone AS (DELETE FROM media_thumbnails WHERE ctid IN"
            " (SELECT ctid FROM summed WHERE bytes > $1 LIMIT $2) RETURNING 1)"
            " SELECT count(*) FROM gone",
            limits.MEDIA_REMOTE_THUMBNAILS_BYTES,
            limits.MEDIA_DELETED_AT_ONCE,
        )
        return count

    async def delete_unused(self) -> int:
        """Deletes thumbnails of contents that no URI has, at most `MEDIA_DELETED_AT_ONCE`; returns
        how many."""
        count: int = await self._database.fetchval(
            "WITH unused AS (SELECT t.ctid FROM media_thumbnails t WHERE NOT EXISTS"
            " (SELECT FROM media m WHERE m.sha256 = t.source) LIMIT $1),"
            " gone AS (DELETE FROM media_thumbnails WHERE ctid IN (SELECT ctid FROM unused)"
            " RETURNING 1) SELECT count(*) FROM gone",
            limits.MEDIA_DELETED_AT_ONCE,
        )
        return count


def _values(key: ThumbnailKey) -> tuple[bytes, str, int, int, bool, str]:
    method, size = key.shape.method, key.shape.size
    return key.source, method.value, size.width, size.height, key.is_animated, key.maker
