"""Guests leave rooms that don't let guests in any more.

Rules:
1. Whatever changes a room's m.room.guest_access (an event, a merge) has its guests looked at after
   the commit; a start looks at all rooms with guests, for what a former process didn't finish.
2. A room that a guest can't leave now is tried again.

Spec: client-server API, "Guest Access", "Server behaviour".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.engine.log.entries import EventEntry, StateEntry
from homeserver.engine.log.tail import Placed
from homeserver.errors import MatrixError
from homeserver.services.rooms.room_access import GUEST_ACCESS, RoomAccess
from homeserver.storage.accounts import accounts
from homeserver.storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)


class GuestStays:
    """Follows the log, and ends what isn't allowed any more."""

    def __init__(
        self,
        database: Database,
        access: RoomAccess,
        *,
        leave: Callable[[UserId, RoomId], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._database, self._access = database, access
        self._leave, self._sleep = leave, sleep
        self._due: set[RoomId] | None = None  # None: all
        self._wake = asyncio.Event()
        self._wake.set()

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """A follower of the log."""
        for placed in batch:
            entry = placed.entry
            if isinstance(entry, EventEntry | StateEntry) and any(
                change.key == GUEST_ACCESS for change in entry.changes
            ):
                if self._due is not None:
                    self._due.add(entry.room_id)
                self._wake.set()

    async def run(self) -> None:
        """Works off what is due; for the supervisor."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.work_once():
                await self._sleep(limits.DEPARTURE_RETRY_S_MIN)
                self._wake.set()

    async def work_once(self) -> bool:
        """Looks at all rooms that are due. Returns whether that is done with."""
        due, self._due = self._due, set()
        try:
            found = await self._guests(due)
        except DatabaseUnavailable as error:
            log.warning("guests can't be looked for: %s", error)
            self._due = None if due is None else self._due | due
            return False
        refused = {room_id for room_id, user_id in found if not await self._check(room_id, user_id)}
        self._due |= refused
        return not refused

    async def _guests(self, due: set[RoomId] | None) -> list[tuple[RoomId, UserId]]:
        async with self._database.connection() as connection:
            if due is None:
                return await accounts.load_guests(connection)
            return [
                one for room_id in due for one in await accounts.load_guests(connection, room_id)
            ]

    async def _check(self, room_id: RoomId, user_id: UserId) -> bool:
        """Has a guest leave who may not be in a room; False where that has to be tried again."""
        try:
            if not await self._access.lets_guests_in(room_id):
                await self._leave(user_id, room_id)
        except (MatrixError, DatabaseUnavailable) as error:
            log.info("guest %s can't leave %s yet: %s", user_id, room_id, error)
            return False
        return True
