"""Makes guests leave rooms that no longer allow guests.

Rules:
1. After each change of a room's m.room.guest_access (an event, a merge) its guests are checked
   after the commit; a start checks all rooms with guests, for work that a former process didn't
   finish.
2. If a guest can't leave a room now, the departure is retried.

Spec: client-server API, "Guest Access", "Server behaviour".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateEntry
from homeserver.services.rooms.room_access import RoomAccess
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)


class GuestStays:
    """Follows the log, and ends stays that are no longer allowed."""

    def __init__(
        self,
        database: Database,
        access: RoomAccess,
        *,
        leave: Callable[[UserId, RoomId], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._accounts, self._access = AccountTable(database), access
        self._leave, self._sleep = leave, sleep
        self._due: set[RoomId] | None = None  # None: all rooms.
        self._wake = asyncio.Event()
        self._wake.set()

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        for placed in batch:
            entry = placed.entry
            if isinstance(entry, EventEntry | StateEntry) and any(
                change.key == event_types.GUEST_ACCESS_KEY for change in entry.changes
            ):
                if self._due is not None:
                    self._due.add(entry.room_id)
                self._wake.set()

    async def run(self) -> None:
        """Does due work; runs under the supervisor."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.work_once():
                await self._sleep(limits.DEPARTURE_RETRY_S_MIN)
                self._wake.set()

    async def work_once(self) -> bool:
        """Checks all due rooms. Returns whether all of them are done."""
        due, self._due = self._due, set()
        try:
            found = await self._accounts.load_guests(due)
        except DatabaseUnavailable as error:
            log.warning("guests can't be looked for: %s", error)
            self._due = None if due is None else self._due | due
            return False
        refused = {room_id for room_id, user_id in found if not await self._check(room_id, user_id)}
        self._due |= refused
        return not refused

    async def _check(self, room_id: RoomId, user_id: UserId) -> bool:
        """Makes a guest leave a room that doesn't allow guests; False if that has to be retried."""
        try:
            if not await self._access.lets_guests_in(room_id):
                await self._leave(user_id, room_id)
        except (MatrixError, DatabaseUnavailable) as error:
            log.info("guest %s can't leave %s yet: %s", user_id, room_id, error)
            return False
        return True
