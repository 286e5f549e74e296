"""Brings the schema up to date: numbered SQL files, forward only, each in one transaction.

Two processes that start at once are serialised by an advisory lock. A database that is newer than
this program is refused: an older program would misread the newer schema.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from homeserver.storage.database import Connection, Database

_LOCK = 0x66726565686F6C64  # "freehold"
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class SchemaTooNew(Exception):
    """The database was written by a newer Freehold."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step: `0001_core.sql`."""

    number: int
    name: str
    sql: str


def known_migrations() -> Sequence[Migration]:
    """Returns the steps that come with this program, in order."""
    found = []
    for entry in files("homeserver.storage").joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(entry.name):
            found.append(Migration(int(match[1]), match[2], entry.read_text()))
    return sorted(found, key=lambda migration: migration.number)


async def migrate(database: Database) -> int:
    """Applies missing steps; returns their number."""
    async with database.connection() as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        try:
            return await _apply_missing(connection)
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _apply_missing(connection: Connection) -> int:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations ("
        " number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz DEFAULT now())"
    )
    rows = await connection.fetch("SELECT number FROM schema_migrations")
    done = {row["number"] for row in rows}
    steps = known_migrations()
    if unknown := done - {step.number for step in steps}:
        raise SchemaTooNew(f"the database has migrations that are unknown here: {sorted(unknown)}")
    missing = [step for step in steps if step.number not in done]
    for step in missing:
        async with connection.transaction():
            await connection.execute(step.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (number, name) VALUES ($1, $2)",
                step.number,
                step.name,
            )
    return len(missing)
