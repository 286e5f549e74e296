"""Previews of pages. Owns the table `url_previews`.

Rules:
1. A preview that is made again leaves the older one, with its picture, until `prune`: clients still
   show it.
2. A preview and the URI of its picture are stored in one transaction: a picture without a preview
   would never be deleted.
"""

from __future__ import annotations

import msgspec

from federation.events.ids import ServerName
from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobContent
from homeserver.storage.media.media import add_unowned, delete_media


class StoredPreview(msgspec.Struct, frozen=True):
    """The answer (JSON), and when the page was fetched."""

    preview: bytes
    fetched_ms: int


class PreviewPicture(msgspec.Struct, frozen=True):
    """The picture of a preview, and its media ID of this server. The store has kept its content."""

    media_id: str
    content_type: str
    content: BlobContent
    needs_token: bool


class PreviewTable:
    """The newest preview of each page, and older ones."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        self._database, self._server_name = database, server_name

    async def load(self, url: str) -> StoredPreview | None:
        """Returns the newest preview of a page; None if there is none."""
        row = await self._database.fetchrow(
            "SELECT preview, fetched_ms FROM url_previews WHERE url = $1"
            " ORDER BY fetched_ms DESC LIMIT 1",
            url,
        )
        return None if row is None else StoredPreview(row["preview"], row["fetched_ms"])

    async def keep(
        self, url: str, stored: StoredPreview, picture: PreviewPicture | None
    ) -> StoredPreview:
        """Stores a preview with its picture; returns it, or the one of the same time that is
        there."""
        async with self._database.transaction() as connection:
            added = await connection.fetchval(
                "INSERT INTO url_previews (url, fetched_ms, preview, media_id)"
                " VALUES ($1, $2, $3, $4) ON CONFLICT (url, fetched_ms) DO NOTHING RETURNING true",
                url,
                stored.fetched_ms,
                stored.preview,
                None if picture is None else picture.media_id,
            )
            if added is None:
                known: bytes = await connection.fetchval(
                    "SELECT preview FROM url_previews WHERE url = $1 AND fetched_ms = $2",
                    url,
                    stored.fetched_ms,
                )
                return StoredPreview(known, stored.fetched_ms)
            if picture is not None:
                await add_unowned(
                    connection,
                    Mxc(self._server_name, picture.media_id),
                    picture.content_type,
                    picture.content,
                    now_ms=stored.fetched_ms,
                    needs_token=picture.needs_token,
                )
        return stored

    async def prune(self, *, before_ms: int) -> int:
        """Deletes previews that were fetched before a time, and the oldest beyond
        `PREVIEWS_STORED`, or whose pictures are beyond `PREVIEW_PICTURES_BYTES`, with their
        pictures: at most `PREVIEWS_PRUNED_AT_ONCE`. Returns their number."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                "DELETE FROM url_previews WHERE (url, fetched_ms) IN ("
                "SELECT url, fetched_ms FROM url_previews WHERE fetched_ms < greatest($1,"
                " (SELECT fetched_ms FROM url_previews ORDER BY fetched_ms DESC OFFSET $2 LIMIT 1)"
                " + 1, (SELECT max(fetched_ms) FROM (SELECT p.fetched_ms,"
                "  sum(m.size) OVER (ORDER BY p.fetched_ms DESC) AS bytes FROM url_previews p"
                "  JOIN media m ON m.origin = $4 AND m.media_id = p.media_id) AS pictures"
                "  WHERE bytes > $5) + 1) ORDER BY fetched_ms LIMIT $3) RETURNING media_id",
                before_ms,
                limits.PREVIEWS_STORED,
                limits.PREVIEWS_PRUNED_AT_ONCE,
                self._server_name,
                limits.PREVIEW_PICTURES_BYTES,
            )
            media_ids = [row["media_id"] for row in rows if row["media_id"] is not None]
            await delete_media(connection, self._server_name, media_ids)
        return len(rows)
