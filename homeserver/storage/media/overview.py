"""What the server's operator sees of media: lists and sums."""

from __future__ import annotations

import msgspec

from federation.events.ids import ServerName, UserId
from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.database import Database
from homeserver.storage.media.media import MEDIA_COLUMNS, MediaItem, media_item


class Usage(msgspec.Struct, frozen=True):
    """How many media one source has, and their bytes: each URI counted."""

    source: str
    """A user of this server, or another server; "" for media of this server without a user."""
    is_local: bool
    files: int
    bytes: int


class MediaOverview:
    """Lists and sums of all media."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        *,
        after: Mxc | None = None,
        uploader: UserId | None = None,
        origin: ServerName | None = None,
        is_quarantined: bool | None = None,
    ) -> list[MediaItem]:
        """Returns media in the order of their URIs, past `after`, of one uploader, origin or state
        only where it is given: at most `MEDIA_READ_AT_ONCE`."""
        rows = await self._database.fetch(
            f"SELECT * FROM (SELECT {MEDIA_COLUMNS} FROM media"
            " WHERE (origin, media_id) > ($1, $2) AND ($3::text IS NULL OR uploader = $3)"
            " AND ($4::text IS NULL OR origin = $4)) AS found"
            " WHERE $5::boolean IS NULL OR is_quarantined = $5"
            " ORDER BY origin, media_id LIMIT $6",
            *(after or ("", "")),
            uploader,
            origin,
            is_quarantined,
            limits.MEDIA_READ_AT_ONCE,
        )
        return [media_item(row) for row in rows]

    async def usage(self, server_name: ServerName) -> list[Usage]:
        """Returns the sums of each source, the largest first."""
        rows = await self._database.fetch(
            "SELECT CASE WHEN origin = $1 THEN coalesce(uploader, '') ELSE origin END AS source,"
            " origin = $1 AS is_local, count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes"
            " FROM media WHERE sha256 IS NOT NULL GROUP BY 1, 2 ORDER BY bytes DESC, source",
            server_name,
        )
        return [Usage(*row) for row in rows]
