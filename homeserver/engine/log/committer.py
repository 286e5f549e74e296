"""The log: everything queued during the last commit becomes one transaction.

Rules:
1. One commit at a time, in the order of the queue; positions follow it, without gaps.
2. A batch of messages is one statement. Any other batch is a transaction: units' own work first,
   each under a savepoint, then positions are assigned, then rows are written, then the log's row is
   updated.
3. No submitter gets an outcome before it is known. After a lost connection its session is ended
   first, so that no statement in transit can still commit; then the log's row tells whether the
   batch is stored. Submitters that have waited too long by then get `OutcomeUnknown`, and new units
   are refused; queued units stay queued.
4. A failed batch is undone: rooms drop their staged events and raise their generation, so that
   units queued on top are refused (`Superseded`). If the data was at fault, units are retried one
   by one, and only the faulty one fails.
5. When the log isn't ours any more (another process took it over), this one stops serving. The
   log's row is read at intervals to detect that also when nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from federation.errors import MatrixError
from federation.events.ids import EventId
from homeserver import limits
from homeserver.engine.entries import Committed, Placed, Unit, entry_bytes
from homeserver.engine.log.batch import Batch, PendingUnit, PlainUnit
from homeserver.engine.log.log_connection import Fault, LogConnection, LogLost
from homeserver.engine.log.log_history import LogHistory
from homeserver.engine.log.row_numbers import RowNumbers
from homeserver.engine.log.staging import RoomUnit
from homeserver.engine.log.tail import LogTail
from homeserver.engine.rooms.room import Superseded
from homeserver.engine.store import EngineStore
from homeserver.errors import unavailable
from homeserver.storage.database import DatabaseFailing, DatabaseUnavailable, DataRefused
from homeserver.storage.logs import OwnedLog

log = logging.getLogger(__name__)


class OutcomeUnknown(MatrixError):
    """The commit takes too long: 503 now. `final` is done once the outcome is known; until then the
    operation must not be retried."""

    def __init__(self, final: asyncio.Future[Committed], event_ids: Sequence[EventId]) -> None:
        refusal = unavailable("it isn't known yet whether this is stored")
        super().__init__(
            refusal.status,
            refusal.errcode,
            refusal.error,
            extra=refusal.extra,
            headers=refusal.headers,
        )
        self.final = final
        self.event_ids = event_ids


class _Queue:
    """Units that wait for a commit, in order, and their total size in bytes."""

    def __init__(self) -> None:
        self._units: deque[PendingUnit] = deque()
        self._sizes: deque[int] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._units)

    def __iter__(self) -> Iterator[PendingUnit]:
        return iter(self._units)

    def append(self, pending: PendingUnit) -> None:
        """Adds a unit."""
        size = _bytes_of(pending)
        self._units.append(pending)
        self._sizes.append(size)
        self.bytes += size

    def take(self, count: int) -> list[PendingUnit]:
        """Removes the first `count` units, or all if there are fewer."""
        taken = [self._units.popleft() for _ in range(min(count, len(self._units)))]
        self.bytes -= sum(self._sizes.popleft() for _ in taken)
        return taken

    @property
    def is_full(self) -> bool:
        """Returns whether submitters must wait."""
        return (
            len(self._units) >= limits.COMMIT_QUEUE_UNITS or self.bytes >= limits.COMMIT_QUEUE_BYTES
        )


def _bytes_of(pending: PendingUnit) -> int:
    """Returns the size of a waiting unit; rows that its work will write aren't known yet."""
    staged = pending.staged if isinstance(pending, RoomUnit) else ()
    events = sum(entry_bytes(one.entry) for one in staged if one.entry is not None)
    return events + sum(map(entry_bytes, pending.unit.entries))


Published = Callable[[Sequence[Placed]], None]


class Committer:
    """Owns the log and the connection that writes it."""

    def __init__(
        self, store: EngineStore, owned: OwnedLog, *, on_lost: Callable[[], None] | None = None
    ) -> None:
        self._log = store.log
        self.history = LogHistory(owned.epochs, lambda: self.position)
        self._epoch = owned.epoch
        self.position = owned.position
        self.tail = LogTail(owned.position, limits.LOG_TAIL_ENTRIES, limits.LOG_TAIL_BYTES)
        self._queue = _Queue()
        self._filled = asyncio.Event()
        self._room_left = asyncio.Event()
        self._room_left.set()
        self._connection = LogConnection(store.log, owned.epoch)
        self.numbers = RowNumbers(store.log)
        self._followers: list[Published] = []
        self._late: asyncio.TimerHandle | None = None
        self._is_late = False
        self._is_lost = False
        self._closing = False
        self._ended = asyncio.Event()
        self._on_lost = on_lost
        self.fault: Fault | None = None  # tests inject faults here

    # Submission

    def subscribe(self, published: Published) -> None:
        """Registers `published`, which is called with each batch right after its commit."""
        self._followers.append(published)

    async def submit(self, unit: Unit) -> Committed:
        """Commits a unit without room events; returns after the commit. Raises the error of its
        work, or 503."""
        await self.wait_for_space()
        done: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._queue.append(PlainUnit(unit, done))
        self._filled.set()
        return await done

    def enqueue(self, room_unit: RoomUnit) -> None:
        """Queues staged events; for the writer, which holds the room's lock."""
        room_unit.room.unsettled += 1
        self._queue.append(room_unit)
        self._filled.set()

    async def wait_for_space(self) -> None:
        """Applies back-pressure: returns once the queue has room; 503 if it takes too long."""
        if self._closing or self._is_lost:
            raise unavailable("the server is stopping")
        if self._is_late:
            raise unavailable("the database doesn't answer")
        if self._queue.is_full:
            self._room_left.clear()
            try:
                await asyncio.wait_for(self._room_left.wait(), limits.COMMIT_WAIT_S)
            except TimeoutError:
                raise unavailable("too much is waiting to be stored") from None

    # The loop

    async def run(self) -> None:
        """Commits queued units until `close`, or until the log is lost; runs under the
        supervisor.
        """
        while not self._is_lost:
            await self._filled.wait()
            self._filled.clear()
            while self._queue:
                batch = self._queue.take(limits.COMMIT_BATCH_UNITS)
                if not self._queue.is_full:
                    self._room_left.set()
                await self._commit(batch)
            if self._closing:
                self._ended.set()
                return

    async def close(self, within_s: float) -> None:
        """Refuses new units; returns when the queue is empty, or after `within_s`."""
        self._closing = True
        self._connection.stop_asking()
        self._filled.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), within_s)

    async def disconnect(self) -> None:
        """Closes the log's own connection."""
        await self._connection.close()

    async def watch_owner(self) -> None:
        """Checks at intervals whether the log is still ours; runs under the supervisor."""
        while not self._is_lost:
            await asyncio.sleep(limits.LOG_OWNER_CHECK_S)
            try:
                epoch = await self._log.load_epoch()
            except DatabaseUnavailable:
                continue
            if epoch != self._epoch:
                self._lose([])

    async def _commit(self, pending: list[PendingUnit]) -> None:
        current = self._still_current(pending)
        if not current:
            return
        self._answer_in_time(current)
        try:
            await self._commit_current(current)
        finally:
            self._is_late = False
            if self._late is not None:
                self._late.cancel()
                self._late = None

    async def _commit_current(self, current: list[PendingUnit]) -> None:
        batch = Batch(current, self.position)
        try:
            try:
                await self._connection.write(batch, self.fault)
            except (MatrixError, DataRefused, DatabaseFailing, LogLost):
                raise  # these errors mean that nothing is stored
            except Exception as error:
                is_possible = batch.sent or isinstance(error, DatabaseUnavailable)
                if not is_possible or not await self._connection.is_in(batch):
                    raise
        except asyncio.CancelledError:
            self._fail(current, unavailable("the server is stopping"))
            raise
        except DatabaseFailing as error:
            log.warning("a commit failed, the database can't store it: %s", error)
            self._fail(current, unavailable("the database can't store it now"))
        except DatabaseUnavailable as error:
            log.warning("a commit failed, the database is away: %s", error)
            self._fail(current, unavailable("the database can't be reached"))
        except LogLost:
            self._lose(current)
            raise
        except Exception as error:  # noqa: BLE001  # each unit is told its own error
            await self._one_by_one(current, error)
        else:
            self._publish(batch)

    def _answer_in_time(self, current: Sequence[PendingUnit]) -> None:
        """Bounds the time that a submitter waits for this commit."""
        if self._late is not None:
            self._late.cancel()
        loop = asyncio.get_running_loop()
        self._late = loop.call_later(limits.COMMIT_ANSWER_S, self._answer_late, current)

    def _answer_late(self, current: Sequence[PendingUnit]) -> None:
        self._is_late = True
        for one in (*current, *self._queue):
            if one.is_late or one.done.done():
                continue
            one.is_late = True
            final: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
            staged = one.staged if isinstance(one, RoomUnit) else ()
            event_ids = [staged_one.event.event_id for staged_one in staged]
            one.done.set_exception(OutcomeUnknown(final, event_ids))
            one.done.exception()  # there may be no waiter any more
            one.done = final
        self._answer_in_time(current)  # for units that are queued from now on

    def _lose(self, pending: Sequence[PendingUnit]) -> None:
        """Stops serving: another process owns the log, so nothing can be stored any more."""
        self._is_lost = True
        refusal = unavailable("another process has taken over")
        self._fail(pending, refusal)
        queued = self._queue.take(len(self._queue))
        self._fail(queued, refusal)
        self._room_left.set()
        self._filled.set()
        self._ended.set()
        if self._on_lost is not None:
            self._on_lost()

    def _still_current(self, pending: list[PendingUnit]) -> list[PendingUnit]:
        """Returns the units without those of rooms that were staged on something that has failed
        since.
        """
        current = []
        for one in pending:
            if isinstance(one, RoomUnit) and one.generation != one.room.generation:
                self._settle(one, Superseded())
            else:
                current.append(one)
        return current

    async def _one_by_one(self, pending: list[PendingUnit], error: Exception) -> None:
        if len(pending) == 1:
            log.error("a unit can't be stored: %s: %s", type(error).__name__, error)
            is_refusal = isinstance(error, MatrixError | DataRefused)
            refusal = error if is_refusal else unavailable("it can't be stored")
            self._fail(pending, refusal)
            return
        for i, one in enumerate(pending):
            try:
                await self._commit([one])
            except LogLost:
                self._fail(pending[i + 1 :], unavailable("another process has taken over"))
                raise

    # Outcomes

    def _publish(self, batch: Batch) -> None:
        self.position = batch.up_to
        placed = batch.placed()
        self.tail.append(placed)
        for one in batch.units:
            one.publish_room()
        for follower in self._followers:
            self._tell(follower, placed)
        for one in batch.units:
            if one.error is not None:
                self._settle(one.pending, one.error)
            else:
                self._settle(one.pending, one.committed)

    def _tell(self, follower: Published, placed: Sequence[Placed]) -> None:
        """Tells all followers, so that one that raises doesn't keep the others from seeing the
        commit.
        """
        try:
            follower(placed)
        except Exception:
            log.exception("a follower of the log failed")

    def _fail(self, pending: Sequence[PendingUnit], error: Exception) -> None:
        for one in pending:
            if isinstance(one, RoomUnit) and one.generation == one.room.generation:
                one.room.discard_staged()
            if isinstance(one, RoomUnit) and one.failed is not None:
                one.failed()
        for one in pending:
            self._settle(one, error)

    def _settle(self, pending: PendingUnit, outcome: Committed | Exception) -> None:
        if isinstance(pending, RoomUnit):
            pending.room.unsettled -= 1
        if pending.done.done():
            return  # the waiter was cancelled
        if isinstance(outcome, Exception):
            pending.done.set_exception(outcome)
            pending.done.exception()  # there may be no waiter any more
        else:
            pending.done.set_result(outcome)
