"""Deactivated users leave their rooms, refuse their invites and take back their knocks.

Rules:
1. It is a durable job: the row is written in the unit that ends the account, and deleted once the
   user is in no room any more. The answer to the client doesn't wait for it.
2. A room that can't be left (for example because its policy server is down) doesn't stop the
   departure from the others; it is retried with growing waits, without a limit.
3. After the last room the memberships are read once more: a join that was in progress when the
   account ended may have been completed since.

Spec: client-server API, "Account deactivation".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from federation.errors import MatrixError
from federation.events.ids import RoomId, UserId
from federation.ports import Clock
from federation.retries import DoublingWaits
from federation.transport.wakeup import Wakeup
from homeserver import limits
from homeserver.engine.followers.memberships import UserRoom
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.database import Database, DatabaseUnavailable

log = logging.getLogger(__name__)

_OPEN = frozenset({"join", "invite", "knock"})


@dataclass(frozen=True, slots=True)
class _Try:
    """The time of a user's next attempt, on the monotonic clock, and the wait before it."""

    due_s: float
    wait_s: float
    is_last_look: bool = False


class AccountDepartures:
    """The job. `rooms_of` returns a user's memberships; `leave` ends one, or raises MatrixError."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        rooms_of: Callable[[UserId], Awaitable[Mapping[RoomId, UserRoom]]],
        leave: Callable[[UserId, RoomId], Awaitable[None]],
    ) -> None:
        self._accounts, self._clock = AccountTable(database), clock
        self._rooms_of, self._leave = rooms_of, leave
        self._tries: dict[UserId, _Try] = {}
        self._wakeup = Wakeup(clock)

    def begin(self, _user_id: UserId) -> None:
        """Starts the work for an account that was ended."""
        self._wakeup.set()

    async def run(self) -> None:
        """Completes what a former process left, then new work; runs under the supervisor."""
        while True:
            try:
                wait_s = await self.work_once()
            except DatabaseUnavailable as error:
                log.warning("AccountDepartures wait for the database: %s", error)
                wait_s = limits.DEPARTURE_RETRY_S_MIN
            await self._wakeup.wait(wait_s)

    async def work_once(self) -> float:
        """Does all due work; returns the seconds until more is due."""
        departing = await self._accounts.load_departing()
        now_s = self._clock.monotonic_s()
        due = [one for one in departing if self._due_s(one) <= now_s]
        places = asyncio.Semaphore(limits.DEPARTURES_AT_ONCE)

        async def depart(user_id: UserId) -> None:
            async with places:
                await self._depart(user_id)

        async with asyncio.TaskGroup() as group:
            for user_id in due:
                group.create_task(depart(user_id))
        now_s = self._clock.monotonic_s()
        waits = [self._tries[one].due_s - now_s for one in departing if one in self._tries]
        return max(0.0, min(waits, default=limits.DEPARTURE_RETRY_S_MAX))

    def _due_s(self, user_id: UserId) -> float:
        one = self._tries.get(user_id)
        return one.due_s if one is not None else float("-inf")

    async def _depart(self, user_id: UserId) -> None:
        refused = 0
        found = [
            room_id
            for room_id, row in (await self._rooms_of(user_id)).items()
            if row.membership in _OPEN
        ]
        for room_id in found:
            try:
                await self._leave(user_id, room_id)
            except (MatrixError, DatabaseUnavailable) as error:
                log.info("%s can't leave %s yet: %s", user_id, room_id, error)
                refused += 1
            except Exception:
                log.exception("%s can't leave %s", user_id, room_id)
                refused += 1  # A fault with one room doesn't stop the departure from the others.
        now_s, former = self._clock.monotonic_s(), self._tries.pop(user_id, None)
        if refused:
            waits = DoublingWaits(limits.DEPARTURE_RETRY_S_MIN, limits.DEPARTURE_RETRY_S_MAX)
            wait_s = waits.following(former.wait_s if former else None)
            self._tries[user_id] = _Try(now_s + wait_s, wait_s)
        elif found or former is None or not former.is_last_look:
            wait_s = limits.DEPARTURE_LAST_LOOK_S
            self._tries[user_id] = _Try(now_s + wait_s, wait_s, is_last_look=True)
        else:
            await self._accounts.forget_departing(user_id)
