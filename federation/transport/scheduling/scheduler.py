"""Turns: the right to make this server send a request to another one now.

Rules:
1. Each cause (an address, a server, a user of ours) has a share of the requests that are under way,
   and so have all causes of one kind together: what isn't authenticated can't crowd out the rest.
2. Each server that is asked has a share, so a silent server holds up only requests to itself; and
   no cause can take all of that share.
3. Some places are kept for servers that share a room with us and aren't failing. There, too, a
   cause has a share.
4. A request without a place waits in a short queue of its cause, for a short time, and then fails
   (`NoTurn`). A place that becomes free goes to the causes in turn.
5. A turn covers one request from the first look-up of a name to the last byte of the answer, and
   no turn is taken within another.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from federation import limits
from federation.causes import Cause, CauseKind, current_cause
from federation.events.ids import ServerName
from federation.limits import (
    FETCHES_PER_SERVER_AND_CAUSE_MAX,
    FETCHES_PER_SERVER_MAX,
    FETCHES_RESERVED,
    FETCHES_RESERVED_PER_CAUSE_MAX,
)
from federation.ports import Clock
from federation.transport.scheduling.counters import lower

IsNeighbour = Callable[[ServerName], Awaitable[bool]]
"""Returns whether the server shares a room with us, and answers."""


@dataclass(frozen=True, slots=True)
class CauseShare:
    """The bounds of work under way and waiting, for one cause of a kind and for all of the kind."""

    at_once: int
    at_once_of_kind: int
    waiting: int
    waiting_of_kind: int
    wait_s: float


SHARES: Final = MappingProxyType(
    {
        CauseKind.ADDRESS: CauseShare(
            at_once=limits.FETCHES_PER_ADDRESS_MAX,
            at_once_of_kind=limits.FETCHES_OF_ADDRESSES_MAX,
            waiting=limits.FETCHES_WAITING_PER_ADDRESS_MAX,
            waiting_of_kind=limits.FETCHES_WAITING_OF_ADDRESSES_MAX,
            wait_s=limits.FETCH_WAIT_OF_ADDRESS_S_MAX,
        ),
        CauseKind.SERVER: CauseShare(
            at_once=limits.FETCHES_PER_ORIGIN_MAX,
            at_once_of_kind=limits.FETCHES_OF_ORIGINS_MAX,
            waiting=limits.FETCHES_WAITING_PER_ORIGIN_MAX,
            waiting_of_kind=limits.FETCHES_WAITING_OF_ORIGINS_MAX,
            wait_s=limits.FETCH_WAIT_OF_ORIGIN_S_MAX,
        ),
        CauseKind.USER: CauseShare(
            at_once=limits.FETCHES_PER_USER_MAX,
            at_once_of_kind=limits.FETCHES_OF_USERS_MAX,
            waiting=limits.FETCHES_WAITING_PER_USER_MAX,
            waiting_of_kind=limits.FETCHES_WAITING_OF_USERS_MAX,
            wait_s=limits.FETCH_WAIT_OF_USER_S_MAX,
        ),
        CauseKind.OWN: CauseShare(
            at_once=limits.FETCHES_OF_OWN_MAX,
            at_once_of_kind=limits.FETCHES_OF_OWN_MAX,
            waiting=limits.FETCHES_WAITING_OF_OWN_MAX,
            waiting_of_kind=limits.FETCHES_WAITING_OF_OWN_MAX,
            wait_s=limits.FETCH_WAIT_OF_OWN_S_MAX,
        ),
    }
)


class NoTurn(Exception):
    """Too much is under way, or waits, for the same cause or at the same server."""


@dataclass(frozen=True, slots=True)
class _Place:
    cause: Cause
    server: ServerName
    is_reserved: bool


class _Waiter:
    """A task that waits for a place; `granted` ends with None when the time is over."""

    __slots__ = ("granted", "is_neighbour", "server")

    def __init__(self, server: ServerName, *, is_neighbour: bool) -> None:
        self.server, self.is_neighbour = server, is_neighbour
        self.granted: asyncio.Future[_Place | None] = asyncio.get_running_loop().create_future()


class FetchScheduler:
    """Hands out turns. `is_neighbour` is only asked when no other place is free."""

    def __init__(self, clock: Clock, is_neighbour: IsNeighbour) -> None:
        self._clock, self.is_neighbour = clock, is_neighbour
        self._of_cause: Counter[Cause] = Counter()
        self._of_kind: Counter[CauseKind] = Counter()
        self._of_server: Counter[ServerName] = Counter()
        self._of_cause_at: Counter[tuple[Cause, ServerName]] = Counter()
        self._reserved_of: Counter[Cause] = Counter()
        self._waiting: OrderedDict[Cause, deque[_Waiter]] = OrderedDict()
        self._waiting_of_kind: Counter[CauseKind] = Counter()

    @asynccontextmanager
    async def turn(self, server: ServerName) -> AsyncIterator[None]:
        """Yields a turn at `server` for the current cause, as long as the block lasts. Raises
        NoTurn."""
        cause = current_cause()
        place = self._free_place(cause, server, is_neighbour=False)
        if place is None:
            place = await self._reserved_or_waited_for(cause, server)
        try:
            yield
        finally:
            self._leave(place)

    async def _reserved_or_waited_for(self, cause: Cause, server: ServerName) -> _Place:
        is_neighbour = await self.is_neighbour(server)
        place = self._free_place(cause, server, is_neighbour=is_neighbour)
        return place or await self._wait(cause, _Waiter(server, is_neighbour=is_neighbour))

    # --- places -----------------------------------------------------------------------------------

    def _free_place(self, cause: Cause, server: ServerName, *, is_neighbour: bool) -> _Place | None:
        if (
            self._of_server[server] >= FETCHES_PER_SERVER_MAX
            or self._of_cause_at[cause, server] >= FETCHES_PER_SERVER_AND_CAUSE_MAX
        ):
            return None
        share = SHARES[cause.kind]
        if (
            self._of_cause[cause] < share.at_once
            and self._of_kind[cause.kind] < share.at_once_of_kind
        ):
            self._of_cause[cause] += 1
            self._of_kind[cause.kind] += 1
            return self._take(_Place(cause, server, is_reserved=False))
        if (
            is_neighbour
            and self._reserved_of[cause] < FETCHES_RESERVED_PER_CAUSE_MAX
            and self._reserved_of.total() < FETCHES_RESERVED
        ):
            self._reserved_of[cause] += 1
            return self._take(_Place(cause, server, is_reserved=True))
        return None

    def _take(self, place: _Place) -> _Place:
        self._of_server[place.server] += 1
        self._of_cause_at[place.cause, place.server] += 1
        return place

    def _leave(self, place: _Place) -> None:
        lower(self._of_server, place.server)
        lower(self._of_cause_at, (place.cause, place.server))
        if place.is_reserved:
            lower(self._reserved_of, place.cause)
        else:
            lower(self._of_cause, place.cause)
            lower(self._of_kind, place.cause.kind)
        self._grant()

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(self, cause: Cause, waiter: _Waiter) -> _Place:
        share = SHARES[cause.kind]
        line = self._waiting.get(cause, ())
        if len(line) >= share.waiting or (
            self._waiting_of_kind[cause.kind] >= share.waiting_of_kind
        ):
            raise NoTurn(f"too much waits for {cause.kind.value} {cause.name}".rstrip())
        self._waiting.setdefault(cause, deque()).append(waiter)
        self._waiting_of_kind[cause.kind] += 1
        try:
            async with asyncio.TaskGroup() as group:
                alarm = group.create_task(self._end_after(waiter, share.wait_s))
                place = await waiter.granted
                alarm.cancel()
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise
        finally:
            self._forget(cause, waiter)
        if place is None:
            raise NoTurn(f"waited {share.wait_s} s for a turn at {waiter.server}")
        return place

    async def _end_after(self, waiter: _Waiter, seconds: float) -> None:
        await self._clock.sleep(seconds)
        if not waiter.granted.done():
            waiter.granted.set_result(None)

    def _give_back(self, waiter: _Waiter) -> None:
        """Gives back a place that was granted to a task at the moment of its cancellation."""
        granted = waiter.granted
        place = granted.result() if granted.done() and not granted.cancelled() else None
        if place is not None:
            self._leave(place)

    def _forget(self, cause: Cause, waiter: _Waiter) -> None:
        line = self._waiting.get(cause)
        if line is not None and waiter in line:
            line.remove(waiter)
            lower(self._waiting_of_kind, cause.kind)
            if not line:
                del self._waiting[cause]

    def _grant(self) -> None:
        """Gives free places away, one to each cause in turn."""
        given = True
        while given:
            given = False
            for cause in list(self._waiting):
                if self._grant_one(cause):
                    given = True
                    if cause in self._waiting:
                        self._waiting.move_to_end(cause)

    def _grant_one(self, cause: Cause) -> bool:
        """Gives a place to the first in the line for which there is one."""
        for waiter in self._waiting[cause]:
            if waiter.granted.done():
                continue
            place = self._free_place(cause, waiter.server, is_neighbour=waiter.is_neighbour)
            if place is not None:
                waiter.granted.set_result(place)
                self._forget(cause, waiter)
                return True
        return False
