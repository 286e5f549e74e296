"""Counts unread notifications: a follower of the log.

Decision: counts follow the log instead of being written with each commit, so that a send never
waits for them. A position of the log and everything up to it are stored in one transaction: after
`kill -9` the rest is read from the log again, so nothing is lost or counted twice. Readers wait
until the follower has reached the position of their answer, so an event and its count are sent
together.

Decision: a message costs little if nobody waits for its counts. The follower works in turns: at
once if a reader waits, else after `PUSH_PAUSE_S`. What it makes is stored after `PUSH_STORE_S`, or
when the tables are read. What the log doesn't tell exactly after a restart (`is_lasting`) isn't
left to that.

Rules:
1. An event is one row, with its usual level and the users who have another one. Rows of users are
   written for those who read or speak, and for all members of a room once it has many new events.
2. A redacted event doesn't count any more. Not each redaction's effect is in an entry of the log:
   one may take effect when it is verified, or come as history. Those are heard of from the rooms,
   and stored with the redaction until they are taken back.
3. While the lock is free, what is in memory is what is stored with the changes that wait for it.

Spec: client-server API, "Receiving notifications", "Marking notifications as read".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateEntry
from homeserver.services.push.counted_entries import CountedEntries, CountedRooms, is_lasting
from homeserver.services.push.evaluator import Evaluator
from homeserver.services.push.user_states import UserCounts, UserStates
from homeserver.storage.database import Database, DatabaseUnavailable

log = logging.getLogger("freehold.push")


class UnreadCounts:
    """Follows the log; entries wait in memory until `run` applies them."""

    def __init__(
        self,
        database: Database,
        counted: CountedRooms,
        evaluator: Evaluator,
        *,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._states = UserStates(database)
        self._entries = CountedEntries(counted, evaluator, self._states)
        self._counted, self._evaluator, self._sleep = counted, evaluator, sleep
        self._waiting: deque[Placed] = deque()
        self._end, self._reached, self._stored = counted.end, -1, -1
        self._is_started, self._has_failed = False, False
        self._store_to = counted.end
        """The position up to which all is to be stored now."""
        self._redacted: list[tuple[RoomId, EventId]] = []  # to take back, told by no entry
        self._lock = asyncio.Lock()
        self._wake, self._moved = asyncio.Event(), asyncio.Event()
        self._wake.set()
        self._alarms: dict[Callable[[], None], asyncio.TimerHandle] = {}

    # Readers

    async def of(self, user_id: UserId, up_to: int) -> UserCounts:
        """Returns a user's counts as of a position of the log, or a later one."""
        await self._wait_until(lambda: self._reached >= up_to and not self._redacted)
        known = self._states.known(user_id)
        if known is None:
            async with self._lock:
                if self._is_started:
                    await self._store(is_read=True)
                known = await self._states.load(user_id)
        return known

    async def stored(self, up_to: int) -> None:
        """Returns once the tables have all counts as of a position of the log, or a later one.
        Raises DatabaseUnavailable."""
        await self._wait_until(lambda: self._reached >= up_to and not self._redacted)
        if not self._states.writes.is_empty:
            async with self._lock:
                await self._store(is_read=True)

    async def settled(self) -> None:
        """Returns once all that is in the log now is counted, and that is stored with the position:
        it won't be evaluated again."""
        end = self._end
        self._store_up_to(end)
        await self._wait_until(lambda: self._stored >= end)

    async def _wait_until(self, holds: Callable[[], bool]) -> None:
        if holds():
            return
        self._wake.set()
        try:
            async with asyncio.timeout(limits.PUSH_WAIT_S):
                while not holds():
                    await self._moved.wait()
        except TimeoutError:
            log.warning("notifications are behind the log: %d of %d", self._reached, self._end)

    # Following the log

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        if not batch:
            return
        self._waiting.extend(batch)
        self._end = batch[-1].position
        is_urgent = len(self._waiting) >= limits.PUSH_ENTRIES_AT_ONCE
        for placed in batch:
            is_urgent = is_urgent or is_lasting(placed.entry)
        if is_urgent:
            self._wake.set()
        else:
            self._call_in(limits.PUSH_PAUSE_S, self._wake.set)

    def _call_in(self, pause_s: float, call: Callable[[], None]) -> None:
        """Makes a call after a pause, unless it is to be made already."""
        if call not in self._alarms:
            loop = asyncio.get_running_loop()
            self._alarms[call] = loop.call_later(pause_s, self._ring, call)

    def _ring(self, call: Callable[[], None]) -> None:
        del self._alarms[call]
        call()

    def _store_now(self) -> None:
        self._store_up_to(self._states.writes.position)
        self._wake.set()

    def _store_up_to(self, position: int) -> None:
        self._store_to = max(self._store_to, position)

    def on_redacted(self, room_id: RoomId, event_id: EventId) -> None:
        """Hears of a committed redaction that no entry of the log tells."""
        self._redacted.append((room_id, event_id))
        self._wake.set()

    async def run(self) -> None:
        """Applies entries; runs under the supervisor."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.work_once():
                await self._sleep(limits.PUSH_RETRY_S)
                self._wake.set()

    async def work_once(self) -> bool:
        """Applies all that waits; False if the database is away, and it has to be repeated."""
        async with self._lock:
            try:
                if not self._is_started:
                    await self._start()
                while (
                    self._waiting
                    or self._redacted
                    or self._has_failed
                    or self._stored < self._store_to
                ):
                    await self._apply_some()
            except DatabaseUnavailable as error:
                log.warning("notifications wait for the database: %s", error)
                self._has_failed = True
                return False
        if not self._states.writes.is_empty:
            self._call_in(limits.PUSH_STORE_S, self._store_now)
        return True

    async def _start(self) -> None:
        """Takes over what is stored, and reads the log again from there."""
        stored = await self._states.start(self._counted.end)
        if stored < self._counted.end:
            replayed = await self._counted.replay.between(stored, self._counted.end)
            self._waiting.extendleft(reversed(replayed))
        self._redacted += await self._states.redacted()
        self._is_started = True

    async def _apply_some(self) -> None:
        """Applies entries. A redaction ends the stretch, and all is stored with it: what it takes
        back depends on what is stored."""
        for number in range(1, limits.PUSH_ENTRIES_AT_ONCE + 1):
            if not self._waiting or self._states.writes.redacted:
                break
            placed = self._waiting[0]
            await self._apply_safely(placed)
            self._waiting.popleft()
            self._states.writes.position = placed.position
            if number % limits.PUSH_ENTRIES_IN_A_ROW == 0:
                await asyncio.sleep(0)  # others have their turn
        if not self._waiting:
            self._states.writes.position = self._end
            while self._redacted:  # after all that was in the log when it was heard of
                self._states.redact(*self._redacted.pop())
        due = list(self._states.pending.due())
        await self._store(is_read=bool(due))
        for room_id in due:
            audience = await self._evaluator.audiences.of(room_id, self._waiting)
            await self._states.sum_room(room_id, () if audience is None else audience.joined)
        self._reached, self._has_failed = self._states.writes.position, False
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _store(self, *, is_read: bool = False) -> None:
        """Stores what pushers are owed, and the counts if that is due, or the tables are read."""
        writes = self._states.writes
        is_late = writes.position - self._stored >= limits.PUSH_POSITIONS
        is_due = is_late or self._stored < self._store_to or bool(writes.redacted)
        try:
            await self._evaluator.settle()
            if is_due or (is_read and not writes.is_empty):
                await self._states.store()
                self._stored = writes.position
        except DatabaseUnavailable:
            self._has_failed = True
            self._wake.set()  # it may be a reader who came upon it
            raise

    async def _apply_safely(self, placed: Placed) -> None:
        """Applies one entry. One that can't be evaluated, by a fault of ours, isn't counted: it
        must not keep all others from being counted."""
        try:
            if await self._entries.apply(placed, self._waiting):
                self._store_up_to(placed.position)
        except DatabaseUnavailable:
            self._forget_room(placed)
            raise
        except Exception:  # the log goes on
            self._forget_room(placed)
            log.exception("the entry at %d of the log isn't counted", placed.position)

    def _forget_room(self, placed: Placed) -> None:
        """Drops an audience that may have seen a part of an entry."""
        if isinstance(placed.entry, EventEntry | StateEntry):
            self._evaluator.audiences.drop(placed.entry.room_id)
