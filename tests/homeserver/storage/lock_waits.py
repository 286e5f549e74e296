"""Whether a statement waits for a lock, as PostgreSQL says it."""

import asyncio

from homeserver.storage.database import Database


async def waits_for_lock(database: Database, task: asyncio.Task[object]) -> bool:
    """Return once a session of this database waits for a lock (True), or once the task has ended
    without (False)."""
    while not task.done():
        if await database.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock')"
        ):
            return True
    return False
