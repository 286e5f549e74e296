"""The connection that writes the log, and the outcome of a batch after it is lost.

Rules:
1. It has one user; it is reopened when it is lost.
2. The log's position tells whether a batch is stored, or, if the batch has no log entries, a row
   that it wrote.
3. Before the log's row is read for that, the lost session is ended: statements that are still in
   transit to it can't commit afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from federation.retries import DoublingWaits
from homeserver import limits
from homeserver.engine.log.batch import Batch
from homeserver.engine.store import LogStore
from homeserver.storage.database import DatabaseUnavailable, translated

Fault = Callable[[str], Awaitable[None]]


class LogLost(Exception):
    """Another process owns the log now; this one must not serve any more."""


class LogConnection:
    """The owner's connection to its log."""

    def __init__(self, log: LogStore, epoch: int) -> None:
        self._log = log
        self._epoch = epoch
        self._is_closing = False

    async def write(self, batch: Batch, fault: Fault | None) -> None:
        """Commits a batch. Raises LogLost; DatabaseUnavailable, after which `is_in` tells whether
        it is stored; or the error of the batch's own work. Tests inject faults in `fault`."""
        try:
            if fault is not None:
                await fault("before")
            moved = await self._log.write(batch, self._epoch)
            if fault is not None:
                await fault("after")
        except Exception as error:
            ours = translated(error)
            if ours is None:
                raise
            raise ours from error
        if not moved:
            raise LogLost

    async def is_in(self, batch: Batch) -> bool:
        """Returns whether the batch committed, after a lost connection. Waits until the database
        can answer. Raises LogLost."""
        lost = await self._log.abandon()
        if not batch.sent:
            return False
        waits = DoublingWaits(limits.RECONNECT_S_MIN, limits.RECONNECT_S_MAX)
        delay_s = waits.first
        while True:
            try:
                position = await self._log.settled_position(self._epoch, lost)
                is_seen = batch.up_to == batch.old and await self._log.any_placed(batch.witnesses())
                break
            except Exception as error:
                if translated(error) is None and not isinstance(error, DatabaseUnavailable):
                    raise
                await self._log.disconnect()
                if self._is_closing:
                    return False
                await asyncio.sleep(delay_s)
                delay_s = waits.following(delay_s)
        if position is None:
            raise LogLost
        assert position in (batch.old, batch.up_to), "the log moves from batch to batch"
        return is_seen if batch.up_to == batch.old else bool(position == batch.up_to)

    def stop_asking(self) -> None:
        """Ends waits for unknown outcomes, since the server stops."""
        self._is_closing = True

    async def close(self) -> None:
        """Closes the connection."""
        await self._log.disconnect()
