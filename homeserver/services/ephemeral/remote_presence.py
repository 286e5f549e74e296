"""The presence of users of other servers, as these tell it.

Rules:
1. A server speaks for its own users, who must share a room with a local user; others are ignored.
2. A server repeats who is online. If it says nothing for long, its users are offline: it may be
   down, or have forgotten us.

Spec: server-server API, "Presence".
"""

from __future__ import annotations

import asyncio
from itertools import islice

from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName, UserId, server_of
from federation.ports import Clock
from homeserver import limits
from homeserver.rules.ephemeral.due_times import DueTimes
from homeserver.rules.ephemeral.presence import OFFLINE, ONLINE, Shown
from homeserver.services.ephemeral.presence_board import PresenceBoard
from homeserver.services.ephemeral.presence_rooms import PresenceRooms


class RemotePresence:
    """Takes m.presence EDUs. With `is_on` False all are ignored."""

    def __init__(
        self, board: PresenceBoard, rooms: PresenceRooms, clock: Clock, *, is_on: bool
    ) -> None:
        self._board, self._rooms, self._clock, self._is_on = board, rooms, clock, is_on
        self._due: DueTimes[UserId] = DueTimes()
        board.on_drop(self._dropped)

    def _dropped(self, user_id: UserId) -> None:
        self._due.set(user_id, None)

    async def receive(self, origin: ServerName, content: JsonObject) -> None:
        """Handles an m.presence EDU. *Precondition:* its updates have valid users, states, times
        and status messages (`federation.transport.inbound.edus`)."""
        if not self._is_on:
            return
        updates = {
            UserId(one["user_id"]): one
            for one in content["push"]
            if server_of(one["user_id"]) == origin
        }
        await self._rooms.read(updates)
        for number, (user_id, update) in enumerate(updates.items(), start=1):
            if not self._rooms.of(user_id):
                continue
            if self._board.has_place(user_id):
                self._take(user_id, update)
            else:
                self._rooms.drop(user_id)
            if number % limits.PRESENCE_STEP == 0:
                await asyncio.sleep(0)

    def _take(self, user_id: UserId, update: JsonObject) -> None:
        now_s, state, ago_ms = (
            self._clock.monotonic_s(),
            update["presence"],
            update.get("last_active_ago"),
        )
        is_active = state == ONLINE and update.get("currently_active") is True
        shown = Shown(state, is_active, update.get("status_msg") or None)
        self._board.publish(user_id, shown, None if ago_ms is None else now_s - ago_ms / 1000)
        self._due.set(user_id, None if state == OFFLINE else now_s + limits.PRESENCE_REMOTE_S)
        if self._board.get(user_id) is None:
            self._rooms.drop(user_id)  # offline, and never was anything else

    def expire(self) -> float | None:
        """Does what is due (rule 2), a bounded part of it; returns the seconds until the next time
        (0 if there is more), None if there is none."""
        now_s = self._clock.monotonic_s()
        for user_id in islice(self._due.take(now_s), limits.PRESENCE_STEP):
            record = self._board.get(user_id)
            if record is not None:
                shown = Shown(OFFLINE, False, record.shown.status)
                self._board.publish(user_id, shown, record.active_s)
        next_s = self._due.next_s()
        return None if next_s is None else max(0.0, next_s - now_s)

    async def run(self) -> None:
        """Runs under the supervisor until cancelled."""
        while self._is_on:
            while self.expire() == 0:
                await asyncio.sleep(0)  # others have their turn
            await self._clock.sleep(limits.PRESENCE_REMOTE_CHECK_S)
