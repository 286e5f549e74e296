"""Redactions before and after their target, in the database."""

from __future__ import annotations

from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms
from homeserver.storage.timeline import events, redactions
from homeserver.storage.timeline.events import EventTable
from homeserver.storage.timeline.redactions import PendingRedactionTable, RedactedRow
from tests.homeserver.storage.event_rows import ROOM, placed


async def test_redactions_wait_in_their_room_and_each_once(database: Database) -> None:
    waiting = [(1, "$t", "$2"), (1, "$t", "$1"), (1, "$t", "$1"), (1, "$s", "$3"), (2, "$t", "$4")]
    async with database.connection() as connection:
        await redactions.write(connection, [], waiting)
    table = PendingRedactionTable(database)
    assert await table.waiting_for(1, "$t") == ["$1", "$2"]
    assert await table.waiting_for(2, "$s") == []
    found = await table.of_rooms([1, 2, 3], 2)
    assert sorted((one.room_row_id, one.target, one.redaction) for one in found) == [
        (1, "$s", "$3"),
        (1, "$t", "$1"),
        (2, "$t", "$4"),
    ], "at most two of each room"


async def test_nothing_waits_for_an_event_that_was_redacted(database: Database) -> None:
    async with database.connection() as connection:
        await rooms.ensure(connection, ROOM, "!r", "11")
        await events.insert(connection, [placed(1, "$t")])
        await redactions.write(connection, [], [(ROOM, "$t", "$by"), (5, "$t", "$by")])
        await redactions.write(connection, [RedactedRow(ROOM, "$t", b"{}", "$by")], [])
    table = PendingRedactionTable(database)
    assert [await table.waiting_for(room, "$t") for room in (ROOM, 5)] == [[], ["$by"]]
    [row] = await EventTable(database).by_id(["$t"])
    assert (row.json, row.redacted_by) == (b"{}", "$by")
