"""What is known about media. Owns the table `media`.

Rules:
1. A row is one mxc URI. It is *reserved* while its content is awaited (`expires_ms` says until
   when), and *complete* with it; a complete one never gets another content.
2. Rows of other servers' URIs are a cache: `keep_remote` puts them in, retention lets them go.
3. A quarantined URI, or one whose content is quarantined (`media_quarantined_contents`), keeps its
   row and isn't served.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import ServerName, UserId
from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.database import Connection, Database, Row
from homeserver.storage.media.blob_store import BlobContent, Digest


class MediaItem(msgspec.Struct, frozen=True, kw_only=True):
    """One mxc URI. `uploader` is None for media of other servers, and for those of this server that
    no user uploaded; `content` is None while it is awaited, or was let go."""

    mxc: Mxc
    uploader: UserId | None
    content_type: str
    file_name: str | None
    content: BlobContent | None
    created_ms: int
    """When the ID was given out; of a complete one, when the content came."""
    last_access_ms: int
    """To the hour (`MEDIA_ACCESS_MS`)."""
    expires_ms: int | None
    """Of a reserved one, when the ID ends."""
    needs_token: bool
    """The paths without authentication don't serve it."""
    is_quarantined: bool


class Description(msgspec.Struct, frozen=True):
    """What the sender of a content says about it: its type and, maybe, a file's name."""

    content_type: str
    file_name: str | None


class Quota(msgspec.Struct, frozen=True):
    """What a user may upload since a time, in bytes and in files."""

    since_ms: int
    bytes: int
    files: int


class QuotaLeft(msgspec.Struct, frozen=True):
    """What is left of a quota; below 0 if it has become smaller."""

    bytes: int
    files: int

    def has_space(self, size: int) -> bool:
        """Returns whether a file of a size may be uploaded."""
        return self.files > 0 and size <= self.bytes


MEDIA_COLUMNS = (
    "origin, media_id, uploader, content_type, file_name, sha256, size, created_ms, last_access_ms,"
    " expires_ms, needs_token, (is_quarantined OR EXISTS (SELECT FROM media_quarantined_contents q"
    " WHERE q.sha256 = media.sha256)) AS is_quarantined"
)
_WITHIN_QUOTA = (
    " (SELECT count(*) < {files} AND coalesce(sum(size), 0)::bigint + {size} <= {bytes} FROM media"
    " WHERE uploader = {uploader} AND created_ms > {since} AND sha256 IS NOT NULL)"
)


def media_item(row: Row) -> MediaItem:
    """Returns the item in a row of `MEDIA_COLUMNS`."""
    content = None
    if row["sha256"] is not None:
        content = BlobContent(Digest(row["sha256"]), row["size"])
    uploader = row["uploader"]
    return MediaItem(
        mxc=Mxc(ServerName(row["origin"]), row["media_id"]),
        uploader=None if uploader is None else UserId(uploader),
        content_type=row["content_type"],
        file_name=row["file_name"],
        content=content,
        created_ms=row["created_ms"],
        last_access_ms=row["last_access_ms"],
        expires_ms=row["expires_ms"],
        needs_token=row["needs_token"],
        is_quarantined=row["is_quarantined"],
    )


async def delete_media(
    connection: Connection, origin: ServerName, media_ids: Sequence[str]
) -> None:
    """Deletes media of a server; the contents go when nothing else refers to them."""
    await connection.execute(
        "DELETE FROM media WHERE origin = $1 AND media_id = ANY($2::text[])", origin, media_ids
    )


async def add_unowned(
    connection: Connection,
    mxc: Mxc,
    content_type: str,
    content: BlobContent,
    *,
    now_ms: int,
    needs_token: bool,
) -> None:
    """Stores a new URI of this server that no user uploaded, with its content, which the store has
    kept."""
    await connection.execute(
        "INSERT INTO media (origin, media_id, content_type, sha256, size, created_ms,"
        " last_access_ms, needs_token) VALUES ($1, $2, $3, $4, $5, $6, $6, $7)",
        *mxc,
        content_type,
        content.sha256,
        content.size,
        now_ms,
        needs_token,
    )


class MediaTable:
    """Media of this server and of others, by their URIs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, mxc: Mxc) -> MediaItem | None:
        """Returns what is known about a URI; None if nothing is."""
        row = await self._database.fetchrow(
            f"SELECT {MEDIA_COLUMNS} FROM media WHERE origin = $1 AND media_id = $2", *mxc
        )
        return None if row is None else media_item(row)

    async def add(
        self,
        mxc: Mxc,
        uploader: UserId | None,
        described: Description,
        content: BlobContent,
        *,
        now_ms: int,
        needs_token: bool,
        quota: Quota | None = None,
    ) -> bool:
        """Stores a new URI of this server with its content, which the store has kept; returns False
        if the uploader would exceed the quota. *Precondition:* with a quota, one call at a time for
        each uploader."""
        added = await self._database.fetchval(
            "INSERT INTO media (origin, media_id, uploader, content_type, file_name, sha256, size,"
            " created_ms, last_access_ms, needs_token)"
            " SELECT $1, $2, $3, $4, $5, $6, $7, $8, $8, $9 WHERE $10::bigint IS NULL OR"
            + _WITHIN_QUOTA.format(files="$11", size="$7", bytes="$12", uploader="$3", since="$10")
            + " RETURNING true",
            *mxc,
            uploader,
            described.content_type,
            described.file_name,
            content.sha256,
            content.size,
            now_ms,
            needs_token,
            *_quota_values(quota),
        )
        return bool(added)

    async def reserve(
        self, mxc: Mxc, uploader: UserId, *, now_ms: int, expires_ms: int, needs_token: bool
    ) -> bool:
        """Gives out a URI whose content comes later; returns False if the user has `MEDIA_PENDING`
        of them already. *Precondition:* one call at a time for each uploader."""
        reserved = await self._database.fetchval(
            "INSERT INTO media (origin, media_id, uploader, content_type, created_ms,"
            " last_access_ms, expires_ms, needs_token) SELECT $1, $2, $3, '', $4, $4, $5, $6"
            " WHERE (SELECT count(*) FROM media WHERE uploader = $3 AND expires_ms > $4) < $7"
            " RETURNING true",
            *mxc,
            uploader,
            now_ms,
            expires_ms,
            needs_token,
            limits.MEDIA_PENDING,
        )
        return bool(reserved)

    async def complete(
        self,
        mxc: Mxc,
        uploader: UserId,
        described: Description,
        content: BlobContent,
        *,
        now_ms: int,
        quota: Quota | None = None,
    ) -> bool:
        """Gives a reserved URI its content, which the store has kept; returns False if it isn't
        reserved for the user any more, or the user would exceed the quota. *Precondition:* as
        `add`."""
        completed = await self._database.fetchval(
            "UPDATE media SET content_type = $4, file_name = $5, sha256 = $6, size = $7,"
            " created_ms = $8, last_access_ms = $8, expires_ms = NULL WHERE origin = $1"
            " AND media_id = $2 AND uploader = $3 AND expires_ms > $8 AND ($9::bigint IS NULL OR"
            + _WITHIN_QUOTA.format(files="$10", size="$7", bytes="$11", uploader="$3", since="$9")
            + ") RETURNING true",
            *mxc,
            uploader,
            described.content_type,
            described.file_name,
            content.sha256,
            content.size,
            now_ms,
            *_quota_values(quota),
        )
        return bool(completed)

    async def quota_left(self, uploader: UserId, quota: Quota) -> QuotaLeft:
        """Returns what a user may upload before a quota is used up."""
        row = await self._database.fetchrow(
            "SELECT count(*), coalesce(sum(size), 0)::bigint FROM media"
            " WHERE uploader = $1 AND created_ms > $2 AND sha256 IS NOT NULL",
            uploader,
            quota.since_ms,
        )
        assert row is not None, "sums are one row"
        return QuotaLeft(quota.bytes - row[1], quota.files - row[0])

    async def keep_remote(
        self,
        mxc: Mxc,
        described: Description,
        content: BlobContent,
        *,
        now_ms: int,
        needs_token: bool,
    ) -> None:
        """Stores a URI of another server with its content, which the store has kept; in place of
        what was known before, but for a quarantine."""
        await self._database.execute(
            "INSERT INTO media (origin, media_id, content_type, file_name, sha256, size,"
            " created_ms, last_access_ms, needs_token) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)"
            " ON CONFLICT (origin, media_id) DO UPDATE SET content_type = excluded.content_type,"
            " file_name = excluded.file_name, sha256 = excluded.sha256, size = excluded.size,"
            " created_ms = excluded.created_ms, last_access_ms = excluded.last_access_ms,"
            " needs_token = excluded.needs_token",
            *mxc,
            described.content_type,
            described.file_name,
            content.sha256,
            content.size,
            now_ms,
            needs_token,
        )

    async def touch(self, item: MediaItem, *, now_ms: int) -> None:
        """Notes that an item is read now, if the last note is older than `MEDIA_ACCESS_MS`."""
        if now_ms - item.last_access_ms < limits.MEDIA_ACCESS_MS:
            return
        await self._database.execute(
            "UPDATE media SET last_access_ms = $3"
            " WHERE origin = $1 AND media_id = $2 AND last_access_ms < $3",
            *item.mxc,
            now_ms,
        )


def _quota_values(quota: Quota | None) -> tuple[int | None, int | None, int | None]:
    return (None, None, None) if quota is None else (quota.since_ms, quota.files, quota.bytes)
