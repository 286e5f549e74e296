"""Memberships of rooms and servers in rooms, in the database."""

from typing import Any

import pytest

from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms
from homeserver.storage.rooms.memberships import (
    MembershipRow,
    MembershipTable,
    servers_joined,
    servers_left,
    upsert,
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


async def test_memberships_of_rooms_elsewhere_are_found_by_their_positions(
    database: Database,
) -> None:
    """Those with a signed event, the newest of a user in a room."""
    table = MembershipTable(database)
    signed: Any = {"stripped": b"[]", "event": b"{}", "version": "11", "via": "b.test"}
    async with database.connection() as connection:
        await rooms.ensure(connection, 9, "!far", "11")
        await upsert(
            connection,
            [
                MembershipRow(9, "@before:a", "invite", "$e", "@o:b", 3, **signed),
                MembershipRow(9, "@first:a", "invite", "$e", "@o:b", 4, **signed),
                MembershipRow(9, "@ours:a", "invite", "$e", "@o:b", 5),
                MembershipRow(9, "@last:a", "leave", "$e", "@last:a", 6, **signed),
                MembershipRow(9, "@after:a", "invite", "$e", "@o:b", 7, **signed),
            ],
        )
    found = sorted(await table.outside_between(3, 6), key=lambda row: row.position)
    assert [(row.position, row.user_id, row.membership) for row in found] == [
        (4, "@first:a", "invite"),
        (6, "@last:a", "leave"),
    ]
    assert (found[0].room_id, found[0].event, found[0].via) == ("!far", b"{}", "b.test")
