"""Deletes old notifications now and then."""

from __future__ import annotations

import logging

from federation.events.ids import RoomId, ServerName
from federation.ports import Clock
from homeserver import limits
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.push.old_notifications import OldNotificationTable

log = logging.getLogger(__name__)


class NotificationPruning:
    """Keeps so many of each room (`push.notifications_per_room`)."""

    def __init__(
        self, database: Database, server_name: ServerName, clock: Clock, *, kept: int
    ) -> None:
        self._table, self._clock, self._kept = (
            OldNotificationTable(database, server_name),
            clock,
            kept,
        )

    async def run(self) -> None:
        """Prunes; runs under the supervisor."""
        while True:
            await self._clock.sleep(limits.PUSH_OLD_PRUNE_S)
            try:
                await self.prune()
            except DatabaseUnavailable as error:
                log.warning("old notifications wait for the database: %s", error)

    async def prune(self) -> None:
        """Goes through all rooms once. Raises DatabaseUnavailable."""
        after: RoomId | None = RoomId("")
        while after is not None:
            rooms = await self._table.rooms(after)
            await self._table.prune(rooms, kept=self._kept)
            after = rooms.last
