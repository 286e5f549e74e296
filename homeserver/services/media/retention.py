"""The background job that lets media go, and frees their space.

Each round deletes, in this order: IDs whose time is over; the uploads of users who were erased;
what the settings let go (by age, by the last access, by size); then thumbnails of what is gone,
contents that nothing refers to, and what unfinished writers left. What a round that failed didn't
do, the next one does.

An erased user's uploads are data of the user that aren't events, which an erasure covers (spec:
client-server API, "Account deactivation": `erase`). They go whole, avatars included; a content that
another user uploaded, too, stays for that one. A deactivation without erasure deletes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from federation.events.ids import ServerName, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.config_media import RetentionSettings, RetentionTables
from homeserver.services.media.contents import Contents
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.media.blob_store import BlobStoreUnavailable
from homeserver.storage.media.retention import MediaClass, RetentionTable
from homeserver.storage.media.thumbnails import ThumbnailTable

_log = logging.getLogger(__name__)


class Retention:
    """Keeps the media within the settings."""

    def __init__(
        self,
        database: Database,
        contents: Contents,
        server_name: ServerName,
        settings: RetentionTables,
        clock: Clock,
    ) -> None:
        self._rows, self._contents, self._clock = RetentionTable(database), contents, clock
        self._thumbnails = ThumbnailTable(database)
        self._classes = (
            (MediaClass(server_name, is_local=True), settings.local),
            (MediaClass(server_name, is_local=False), settings.remote),
        )
        self._is_due = asyncio.Event()

    def on_deactivated(self, user_id: UserId) -> None:
        """Begins the next round at once: the user may have been erased."""
        self._is_due.set()

    async def run(self) -> None:
        """Runs under the supervisor until cancelled."""
        while True:
            self._is_due.clear()
            try:
                await self.round()
            except (DatabaseUnavailable, BlobStoreUnavailable) as error:
                _log.warning("media can't be let go of now: %s", error)
            try:
                async with asyncio.timeout(limits.MEDIA_RETENTION_S):
                    await self._is_due.wait()
            except TimeoutError:
                continue

    async def round(self) -> None:
        """Deletes all that is due. Raises DatabaseUnavailable or BlobStoreUnavailable."""
        await self._rows.delete_expired(now_ms=self._clock.now_ms())
        while await self._rows.delete_erased():
            continue
        for which, settings in self._classes:
            await self._delete_old(which, settings)
            await self._delete_excess(which, settings)
        while await self._thumbnails.delete_unused() or await self._thumbnails.delete_excess():
            continue
        await self._contents.delete_unreferenced()
        await self._contents.remove_unfinished()

    async def _delete_old(self, which: MediaClass, settings: RetentionSettings) -> None:
        if not (settings.age_days or settings.unused_days):
            return
        while await self._rows.delete_old(
            which,
            created_before_ms=self._before_ms(settings.age_days),
            unused_since_ms=self._before_ms(settings.unused_days),
        ):
            continue

    async def _delete_excess(self, which: MediaClass, settings: RetentionSettings) -> None:
        if not settings.total_bytes:
            return
        excess = await self._rows.total_bytes(which) - settings.total_bytes
        while excess > 0:
            gone = await self._rows.delete_excess(which, excess)
            if not gone:
                return
            excess -= gone

    def _before_ms(self, days: int) -> int:
        if not days:
            return 0
        return self._clock.now_ms() - int(timedelta(days=days).total_seconds() * 1000)
