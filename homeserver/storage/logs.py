"""The log's row: its owner and its position. Owns the tables `logs` and `log_epochs`.

Each commit updates the row from the position that its owner knows to the new one. That fences a
replaced owner (its epoch is old), keeps numbers without gaps, and lets the owner find out after a
lost connection whether its commit succeeded (design, "What keeps it right", 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver import limits
from homeserver.storage.database import (
    LOG_APPLICATION,
    Connection,
    Database,
    DatabaseUnavailable,
)

LOG = 1
"""The only log so far; tokens and cursors name it, so that there can be more."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The time of one owner: a random ID, and the position at which it began."""

    history: str
    began_at: int


@dataclass(frozen=True, slots=True)
class OwnedLog:
    """The log as its new owner found it, with all stored epochs; the last is its own."""

    epoch: int
    position: int
    epochs: Sequence[Epoch]


async def move(connection: Connection, *, epoch: int, old: int, new: int) -> bool:
    """Moves the position; returns False if the log isn't ours any more."""
    status = await connection.execute(
        "UPDATE logs SET position = $4 WHERE log = $1 AND epoch = $2 AND position = $3",
        LOG,
        epoch,
        old,
        new,
    )
    return bool(status == "UPDATE 1")


async def position_once_settled(connection: Connection, epoch: int) -> int | None:
    """Returns the position after any commit in progress has ended; None if the log isn't ours."""
    position: int | None = await connection.fetchval(
        "SELECT position FROM logs WHERE log = $1 AND epoch = $2 FOR UPDATE", LOG, epoch
    )
    return position


async def end_session(connection: Connection, session: int, within_s: int) -> None:
    """Ends an earlier session of the log's owner, if it still exists: statements that are still on
    their way to it can't commit after this. Raises DatabaseUnavailable if it doesn't end in time.
    """
    ended: bool | None = await connection.fetchval(
        "SELECT bool_and(pg_terminate_backend(pid, $2::bigint)) FROM pg_stat_activity"
        " WHERE pid = $1 AND pid <> pg_backend_pid() AND datname = current_database()"
        " AND application_name = $3",
        session,
        within_s * 1000,
        LOG_APPLICATION,
    )
    if ended is False:
        raise DatabaseUnavailable("the log's lost session does not end")


class LogTable:
    """The log's row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_over(self, new_history: str) -> OwnedLog:
        """Makes the caller the owner; the former owner can't commit any more. `new_history` is the
        ID of the epoch that begins."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "WITH taken AS (INSERT INTO logs (log, epoch, position) VALUES ($1, 1, 0)"
                "  ON CONFLICT (log) DO UPDATE SET epoch = logs.epoch + 1"
                "  RETURNING log, epoch, position),"
                " begun AS (INSERT INTO log_epochs (log, epoch, history, began_at)"
                "  SELECT log, epoch, $2, position FROM taken)"
                " SELECT epoch, position FROM taken",
                LOG,
                new_history,
            )
            assert row is not None, "an upsert that returns gives a row"
            await connection.execute(
                "DELETE FROM log_epochs WHERE log = $1 AND epoch <= $2",
                LOG,
                row["epoch"] - limits.EPOCHS_KEPT,
            )
            epochs = await connection.fetch(
                "SELECT history, began_at FROM log_epochs WHERE log = $1 AND epoch <= $2"
                " ORDER BY epoch",
                LOG,
                row["epoch"],
            )
        known = [Epoch(one["history"], one["began_at"]) for one in epochs]
        return OwnedLog(row["epoch"], row["position"], known)

    async def has_history(self) -> bool:
        """Returns whether the database has a log: its server took it over at least once."""
        return bool(await self._database.fetchval("SELECT count(*) FROM logs"))

    async def load_epoch(self) -> int:
        """Returns the owner's number."""
        epoch: int = await self._database.fetchval("SELECT epoch FROM logs WHERE log = $1", LOG)
        return epoch

    async def take_row_ids(self) -> range:
        """Returns a block of row numbers that no other caller has."""
        first: int = await self._database.fetchval("SELECT nextval('row_ids')")
        return range(first, first + 1000)
