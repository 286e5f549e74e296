"""The services of media over a real database and a folder, with a clock that tests set."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.errors import MatrixError
from federation.events.ids import ServerName, UserId
from homeserver.clock import SystemClock
from homeserver.config_media import MediaSettings, QuotaSettings
from homeserver.errors import not_found
from homeserver.rules.media.mxc import Mxc
from homeserver.services.media.arrivals import ContentArrivals
from homeserver.services.media.contents import Contents
from homeserver.services.media.downloads import Downloads, RemoteMedia
from homeserver.services.media.uploads import Upload, Uploads
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobStore
from homeserver.storage.media.local_blobs import LocalBlobs
from homeserver.storage.media.media import Description, MediaItem, MediaTable

HERE, ELSEWHERE = ServerName("hs1"), ServerName("hs2")
ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
HOUR_MS = 3_600_000
NO_QUOTA = QuotaSettings(bytes=0, files=0)


class SetClock(SystemClock):
    """A clock whose time is set; sleeping passes the time at once."""

    def __init__(self) -> None:
        self.at_ms = 1_800_000_000_000

    def now_ms(self) -> int:
        """The set time."""
        return self.at_ms

    def monotonic_s(self) -> float:
        """The same, in seconds."""
        return self.at_ms / 1000

    async def sleep(self, seconds: float) -> None:
        """Passes the time."""
        self.at_ms += round(seconds * 1000)


async def pieces_of(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    """Yields pieces as a body does."""
    for piece in pieces:
        yield piece


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """Joins what a reader yields."""
    return b"".join([piece async for piece in pieces])


class NoRemoteMedia:
    """A server without media of others."""

    async def fetch(self, mxc: Mxc, *, timeout_ms: int) -> MediaItem:
        """Raises 404 M_NOT_FOUND."""
        raise not_found("There is no such media")


class MediaWorld:
    """The services. `files` are those below the folder, by name: how many of each part."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        settings: MediaSettings | None = None,
        store: BlobStore | None = None,
        remote: RemoteMedia | None = None,
        first_id: int = 1,
    ) -> None:
        self.database, self.folder = database, folder
        self.clock, self.settings = SetClock(), settings or MediaSettings()
        self.store = store or LocalBlobs(folder)
        self.arrivals = ContentArrivals()
        self.media = MediaTable(database)
        self.contents = Contents(self.store, database, self.clock)
        numbers = itertools.count(first_id)
        self.uploads = Uploads(
            database,
            self.contents,
            HERE,
            settings=self.settings,
            clock=self.clock,
            random_bytes=lambda count: next(numbers).to_bytes(count, "big"),
            arrivals=self.arrivals,
        )
        self.downloads = Downloads(
            database,
            self.contents,
            HERE,
            clock=self.clock,
            arrivals=self.arrivals,
            remote=remote or NoRemoteMedia(),
        )

    async def upload(
        self,
        data: bytes = b"content",
        *,
        by: UserId = ALICE,
        content_type: str = "text/plain",
        file_name: str | None = None,
    ) -> Mxc:
        """Uploads a content whose size is told."""
        described = Description(content_type, file_name)
        return await self.uploads.upload(by, Upload(described, len(data), pieces_of(data)))

    async def keep_remote(
        self, media_id: str, data: bytes = b"content", *, origin: ServerName = ELSEWHERE
    ) -> Mxc:
        """Keeps a content of another server."""
        mxc = Mxc(origin, media_id)
        content = await self.contents.put(data)
        await self.media.keep_remote(
            mxc,
            Description("text/plain", None),
            content,
            now_ms=self.clock.now_ms(),
            needs_token=True,
        )
        return mxc

    async def item(self, mxc: Mxc) -> MediaItem:
        """What is known about a URI."""
        item = await self.media.load(mxc)
        assert item is not None
        return item

    async def read(self, mxc: Mxc) -> bytes:
        """Downloads a content."""
        item = await self.downloads.find(mxc, timeout_ms=0)
        return await whole(await self.downloads.read(item))

    @property
    def files(self) -> Sequence[str]:
        """The parts of the folder that the files are in, once for each."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).parts[0] for path in found)

    async def counts(self) -> list[int]:
        """The reference counts of all contents."""
        rows = await self.database.fetch(
            "SELECT reference_count FROM media_blobs ORDER BY reference_count"
        )
        return [row[0] for row in rows]


@asynccontextmanager
async def refused(status: int, errcode: str) -> AsyncIterator[None]:
    """Holds that the block ends with such a refusal."""
    with pytest.raises(MatrixError) as found:
        yield
    assert (found.value.status, found.value.errcode) == (status, errcode), found.value
