"""The presence of local users: what their devices do, and what time does.

Rules:
1. One task waits for the earliest time at which somebody becomes idle or offline; there is no timer
   for each user.
2. Activities are events and public receipts that a user sends. A private receipt shows nothing.
3. With a record goes the user's profile; others are told when it changes.

Spec: client-server API, "Presence", "Profiles" ("Events on Change of Profile Information").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from federation.events.ids import DeviceId, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import Entry, EventEntry, Placed, ReceiptEntry
from homeserver.rules.ephemeral.due_times import DueTimes
from homeserver.rules.ephemeral.own_presence import OwnPresence
from homeserver.rules.ephemeral.presence import OFFLINE, Profile, Shown
from homeserver.rules.ephemeral.receipts import READ
from homeserver.services.ephemeral.presence_board import PresenceBoard, PresenceRecord
from homeserver.services.ephemeral.presence_rooms import PresenceRooms

LoadProfile = Callable[[UserId], Awaitable[Profile]]
SeenLately = Callable[[int], Awaitable[Sequence[tuple[UserId, int]]]]
"""Returns the users with a device that was seen since a time (ms since 1970), and when."""


class LocalPresence:
    """The local users who are there. With `is_on` False nobody ever is."""

    def __init__(
        self,
        board: PresenceBoard,
        rooms: PresenceRooms,
        *,
        clock: Clock,
        load_profile: LoadProfile,
        seen_lately: SeenLately,
        is_on: bool,
    ) -> None:
        self._board, self._rooms, self._clock = board, rooms, clock
        self._load_profile, self._seen_lately, self._is_on = load_profile, seen_lately, is_on
        self._users: dict[UserId, OwnPresence] = {}
        self._due: DueTimes[UserId] = DueTimes()
        self._changed = asyncio.Event()
        board.on_drop(self._dropped)

    # What clients do

    @asynccontextmanager
    async def syncing(
        self, user_id: UserId, device_id: DeviceId, said: str | None
    ) -> AsyncIterator[None]:
        """Counts a device as connected for the length of the block: a sync with `set_presence`.
        Of a user who isn't there already a sync that says `offline` leaves no trace."""
        is_hidden = said == OFFLINE and user_id not in self._users
        own = None if is_hidden else await self._own(user_id)
        if own is None or not own.sync_began(device_id, said, self._clock.monotonic_s()):
            self._refresh(user_id)
            yield
            return
        self._refresh(user_id)
        try:
            yield
        finally:
            own.sync_ended(device_id, self._clock.monotonic_s())
            self._refresh(user_id)

    async def set(
        self,
        user_id: UserId,
        device_id: DeviceId,
        state: str,
        status: str | None,
        *,
        lasts_s: float = limits.PRESENCE_SET_S,
    ) -> None:
        """PUT /presence/{userId}/status. `lasts_s`: how long it holds if the device doesn't
        sync."""
        own = await self._own(user_id)
        if own is not None:
            now_s = self._clock.monotonic_s()
            own.choose(device_id, state, status, now_s=now_s, lasts_s=lasts_s)
            self._refresh(user_id)

    async def _own(self, user_id: UserId) -> OwnPresence | None:
        """Returns a user's presence, made if there is none; None if there is no place."""
        if not self._is_on:
            return None
        if user_id not in self._users:
            profile = await self._load_profile(user_id)
            record = await self._record(user_id)
            if record is not None and user_id not in self._users:
                record.profile = profile
                self._users[user_id] = OwnPresence(record.shown.status, record.active_s)
        return self._users.get(user_id)

    def _dropped(self, user_id: UserId) -> None:
        self._users.pop(user_id, None)
        self._due.set(user_id, None)

    def _refresh(self, user_id: UserId) -> None:
        """Tells what a user's presence is now."""
        own = self._users.get(user_id)
        if own is None:
            return
        now_s = self._clock.monotonic_s()
        self._board.publish(user_id, own.shown(now_s), own.active_s)
        self._due.set(user_id, own.due_s(now_s))
        if own.is_gone:
            self._dropped(user_id)
        self._changed.set()

    # What else happens

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log (rule 2)."""
        for placed in batch:
            entry = placed.entry
            if isinstance(entry, EventEntry):
                self._act(entry.event.sender)
            elif isinstance(entry, ReceiptEntry) and entry.kind == READ:
                self._act(entry.user_id)

    def _act(self, user_id: UserId) -> None:
        own = self._users.get(user_id)
        if own is not None:
            own.act(self._clock.monotonic_s())
            self._refresh(user_id)

    async def on_devices_deleted(
        self, _connection: Any, user_id: UserId, device_ids: Sequence[DeviceId]
    ) -> Sequence[Entry]:
        """Devices that log out are offline. Implements `OnDevicesDeleted`."""
        own = self._users.get(user_id)
        if own is not None:
            own.forget(device_ids)
            self._refresh(user_id)
        return []

    def on_deactivated(self, user_id: UserId) -> None:
        """An ended account is offline, and says nothing."""
        self._dropped(user_id)
        record = self._board.get(user_id)
        if record is not None:
            record.profile = {}
            self._board.publish(user_id, Shown(), record.active_s)

    async def on_profile_changed(self, user_id: UserId) -> None:
        """Tells others of the new name or picture (rule 3)."""
        if not self._is_on:
            return
        profile = await self._load_profile(user_id)
        if (record := await self._record(user_id)) is not None:
            record.profile = profile
            self._board.renew(record)

    async def _record(self, user_id: UserId) -> PresenceRecord | None:
        """Returns a user's record, made if there is none and place for it."""
        await self._rooms.read([user_id])
        if self._board.has_place(user_id):
            return self._board.add(user_id)
        self._rooms.drop(user_id)
        return None

    # Time

    def expire(self) -> float | None:
        """Does what is due, a bounded part of it; returns the seconds until the next time (0 if
        there is more), None if there is none."""
        now_s = self._clock.monotonic_s()
        for user_id in islice(self._due.take(now_s), limits.PRESENCE_STEP):
            self._refresh(user_id)
        next_s = self._due.next_s()
        return None if next_s is None else max(0.0, next_s - now_s)

    async def run(self) -> None:
        """Runs under the supervisor until cancelled: ends what timed out."""
        while True:
            self._changed.clear()
            while (wait_s := self.expire()) == 0:
                await asyncio.sleep(0)  # others have their turn
            if wait_s is None:
                await self._changed.wait()
            else:
                least, most = limits.PRESENCE_CHECK_S_MIN, limits.PRESENCE_CHECK_S_MAX
                await self._clock.sleep(min(max(wait_s, least), most))

    async def tell_gone(self) -> None:
        """Tells, some time after the start, who was there before it and hasn't come back: that they
        are offline, and not since when, since they may have hidden then."""
        if not self._is_on:
            return
        seen = await self._seen_lately(self._clock.now_ms() - limits.PRESENCE_SEEN_MS)
        await self._clock.sleep(limits.PRESENCE_OFFLINE_S)
        for user_id, _ in seen:
            if self._board.get(user_id) is not None:
                continue
            if (record := await self._record(user_id)) is not None:
                self._board.renew(record)
