"""Rooms and their heads, in the database."""

from __future__ import annotations

from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms
from homeserver.storage.rooms.rooms import RoomTable


async def test_a_room_keeps_its_number_and_gets_its_version_once(database: Database) -> None:
    async with database.connection() as connection:
        known = await rooms.ensure_known(connection, "!r")
        assert await rooms.ensure_known(connection, "!r") == known
        assert await rooms.ensure(connection, known + 1, "!r", "11") == known
        assert await rooms.ensure(connection, known + 2, "!r", "12") == known
        await rooms.set_heads(connection, [(known, [1], 2, 3, 4)])
    [row] = await RoomTable(database).by_room_ids(["!r", "!unknown"])
    assert (row.room_row_id, row.room_id, row.version) == (known, "!r", "11")


async def test_the_newest_heads_count_and_rooms_without_heads_are_left_out(
    database: Database,
) -> None:
    async with database.connection() as connection:
        for number in (1, 2, 3):
            await rooms.ensure(connection, number, f"!{number}", "11")
        await rooms.set_heads(connection, [(1, [5, 6], 7, 8, 9), (2, [4], 3, 2, 1)])
        await rooms.set_heads(connection, [(1, [10], 11, 12, 13)])
    found = await RoomTable(database).by_room_ids(["!1", "!2", "!3"])
    heads = {
        row.room_id: (row.heads, row.snapshot_row_id, row.live_index, row.position) for row in found
    }
    assert heads == {"!1": ([10], 11, 12, 13), "!2": ([4], 3, 2, 1)}
