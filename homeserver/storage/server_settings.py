"""Settings of the PostgreSQL server that a configuration is checked against."""

from __future__ import annotations

import msgspec

from homeserver.storage.database import Database


class ServerSettings(msgspec.Struct, frozen=True):
    """The server's major version, its settings as texts, and whether our role may create tables."""

    version: int
    encoding: str
    fsync: str
    synchronous_commit: str
    may_create: bool


async def load_server_settings(database: Database) -> ServerSettings:
    """Returns the settings that apply to this database and role."""
    row = await database.fetchrow(
        "SELECT current_setting('server_version_num')::int / 10000,"
        " current_setting('server_encoding'), current_setting('fsync'),"
        " current_setting('synchronous_commit'),"
        " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
    )
    assert row is not None, "the statement has a row always"
    return ServerSettings(*row)
