"""The connection that writes the log, and what became of a batch when it broke.

Rules:
1. Nobody else writes over it; it is made anew when it is lost.
2. Whether a batch is in is told by the log's position, or, where it has no log entries, by a row
   that it wrote.
3. Before the log's row is asked whether a batch is in, the lost session is ended: what was sent to
   it, and is perhaps still on its way, can't commit afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

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
        it is stored; or what the batch's own work raised. Tests cut the line in `fault`."""
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
        """After a lost connection: did the batch commit? Waits until the database can say. Raises
        LogLost."""
        lost = await self._log.abandon()
        if not batch.sent:
            return False
        delay_s = 0.05
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
                delay_s = min(delay_s * 2, limits.RECONNECT_S_MAX)
        if position is None:
            raise LogLost
        assert position in (batch.old, batch.up_to), "the log moves from batch to batch"
        return is_seen if batch.up_to == batch.old else bool(position == batch.up_to)

    def stop_asking(self) -> None:
        """The server stops: what can't be known soon is not waited for."""
        self._is_closing = True

    async def close(self) -> None:
        """Ends the connection."""
        await self._log.disconnect()
