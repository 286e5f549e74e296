"""Thumbnails of contents. Owns the table `media_thumbnails`.

Rules:
1. A thumbnail belongs to a content, not to a URI: the same picture under two URIs has one. It goes
   with its content (a cascade of migration 0034).
2. The thumbnail's own content is in the store before its row is (`storage.media`).
"""

from __future__ import annotations

import msgspec

from homeserver.rules.media.thumbnail_sizes import Shape
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobContent, Digest


class ThumbnailKey(msgspec.Struct, frozen=True):
    """A content, the shape of the thumbnail, and whether an animation is asked for."""

    source: Digest
    shape: Shape
    is_animated: bool


class StoredThumbnail(msgspec.Struct, frozen=True):
    """A thumbnail's type and content; without content the source itself is the thumbnail."""

    content_type: str
    content: BlobContent | None


class ThumbnailTable:
    """The thumbnails that were made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, key: ThumbnailKey) -> StoredThumbnail | None:
        """Returns a thumbnail; None if it wasn't made."""
        row = await self._database.fetchrow(
            "SELECT content_type, sha256, size FROM media_thumbnails WHERE source = $1"
            " AND method = $2 AND width = $3 AND height = $4 AND is_animated = $5",
            *_values(key),
        )
        if row is None:
            return None
        content = None
        if row["sha256"] is not None:
            content = BlobContent(Digest(row["sha256"]), row["size"])
        return StoredThumbnail(row["content_type"], content)

    async def keep(self, key: ThumbnailKey, thumbnail: StoredThumbnail) -> None:
        """Stores a thumbnail whose content the store has kept, if its source is still there."""
        sha256, size = thumbnail.content or (None, None)
        await self._database.execute(
            "INSERT INTO media_thumbnails (source, method, width, height, is_animated,"
            " content_type, sha256, size) SELECT $1, $2, $3, $4, $5, $6, $7, $8"
            " WHERE EXISTS (SELECT FROM media_blobs WHERE sha256 = $1 AND NOT is_deleting"
            " FOR KEY SHARE)"
            " ON CONFLICT (source, method, width, height, is_animated) DO UPDATE SET"
            " content_type = excluded.content_type, sha256 = excluded.sha256,"
            " size = excluded.size",
            *_values(key),
            thumbnail.content_type,
            sha256,
            size,
        )


def _values(key: ThumbnailKey) -> tuple[bytes, str, int, int, bool]:
    shape = key.shape
    return key.source, shape.method.value, shape.size.width, shape.size.height, key.is_animated
