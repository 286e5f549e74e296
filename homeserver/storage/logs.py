"""The log's row: who owns it, and how far it is. Owns the table `logs`.

Each commit moves the row from the position that its owner knows to the new one. That fences an
owner that was replaced (its epoch is old), keeps numbers without gaps, and lets the owner find out
after a lost connection whether its commit took place (design, "What keeps it right", 3).
"""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.storage.database import LOG_APPLICATION, Connection, DatabaseUnavailable

LOG = 1
"""The only log so far; tokens and cursors name it, so that there can be more."""


@dataclass(frozen=True, slots=True)
class OwnedLog:
    """The log as its new owner found it."""

    history: str
    epoch: int
    position: int


async def take_over(connection: Connection, new_history: str) -> OwnedLog:
    """Makes the caller the owner; who owned it before can't commit any more."""
    row = await connection.fetchrow(
        "INSERT INTO logs (log, history, epoch, position) VALUES ($1, $2, 1, 0)"
        " ON CONFLICT (log) DO UPDATE SET epoch = logs.epoch + 1"
        " RETURNING history, epoch, position",
        LOG,
        new_history,
    )
    assert row is not None, "an upsert that returns gives a row"
    return OwnedLog(row["history"], row["epoch"], row["position"])


async def move(connection: Connection, *, epoch: int, old: int, new: int) -> bool:
    """Moves the position; False when the log isn't ours any more."""
    status = await connection.execute(
        "UPDATE logs SET position = $4 WHERE log = $1 AND epoch = $2 AND position = $3",
        LOG,
        epoch,
        old,
        new,
    )
    return bool(status == "UPDATE 1")


async def position_once_settled(connection: Connection, epoch: int) -> int | None:
    """The position after any commit still under way has ended; None if the log isn't ours."""
    position: int | None = await connection.fetchval(
        "SELECT position FROM logs WHERE log = $1 AND epoch = $2 FOR UPDATE", LOG, epoch
    )
    return position


async def end_session(connection: Connection, session: int, within_s: int) -> None:
    """Ends an earlier session of the log's owner, if it is still there: what it was sent, and is
    perhaps still on its way to it, can't commit after this. Raises DatabaseUnavailable when it
    doesn't end in time."""
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


async def load_epoch(connection: Connection) -> int:
    """The owner's number."""
    epoch: int = await connection.fetchval("SELECT epoch FROM logs WHERE log = $1", LOG)
    return epoch


async def take_nids(connection: Connection) -> range:
    """A block of row numbers that nobody else has."""
    first: int = await connection.fetchval("SELECT nextval('nids')")
    return range(first, first + 1000)
