"""Servers in rooms, in the database."""

import pytest

from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms
from homeserver.storage.rooms.memberships import (
    MembershipRow,
    MembershipTable,
    servers_joined,
    servers_left,
)


async def test_servers_share_a_room_while_both_are_in_it(database: Database) -> None:
    table = MembershipTable(database)
    servers = [f"{name}.test" for name in "abc"]
    async with database.connection() as connection:
        came = [(1, "us.test", 1), (1, "a.test", 2), (2, "us.test", 3), (2, "b.test", 4)]
        await servers_joined(connection, [*came, (3, "c.test", 5)])
        found = [await table.shares_room("us.test", server) for server in servers]
        assert found == [True, True, False]
        await servers_left(connection, [(1, "a.test", 6), (2, "us.test", 7)])
        found = [await table.shares_room("us.test", server) for server in servers]
        assert found == [False, False, False]


async def test_imported_members_are_written_in_pieces_and_the_newest_counts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROWS_WRITTEN_AT_ONCE", 2)
    table = MembershipTable(database)
    users = [f"@u{number}:a" for number in range(5)]
    async with database.connection() as connection:
        await rooms.ensure(connection, 9, "!r", "11")
    for membership in ("join", "leave"):
        rows = [MembershipRow(9, user, membership, "$e", user, 1) for user in users]
        await table.import_members(rows)
        found = await table.of_users(users, membership)
        assert sorted(row.user_id for row in found) == users
    assert await table.of_users(users, "join") == []
