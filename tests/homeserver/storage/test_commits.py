"""A commit of messages as one statement."""

from __future__ import annotations

import msgspec
import pytest

from homeserver.storage import commits
from homeserver.storage.database import Database
from homeserver.storage.logs import LogTable
from homeserver.storage.timeline.events import EventTable
from homeserver.storage.timeline.transactions import TransactionTable
from tests.homeserver.storage.event_rows import OTHER, ROOM, placed

ROWS = [placed(2, "$2"), placed(3, "$3", OTHER)]
HEADS = [(ROOM, "{2}", 2, 2), (OTHER, "{3}", 3, 3)]
SENT = [("@u:a", "D", b"key", "$2", 2)]


@pytest.fixture
async def log(database: Database) -> LogTable:
    """Return the log, owned in epoch 1 and at position 1, with two rooms."""
    table = LogTable(database)
    await table.take_over("h")
    await database.execute("UPDATE logs SET position = 1")
    for row_id, room_id in ((ROOM, "!r"), (OTHER, "!o")):
        await database.execute("INSERT INTO rooms VALUES ($1, $2, '11')", row_id, room_id)
        await database.execute(
            "INSERT INTO room_heads (room_row_id, heads, snapshot_row_id, live_index, position)"
            " VALUES ($1, '{1}', 50, 1, 1)",
            row_id,
        )
    return table


async def state(database: Database) -> tuple[int, list[tuple[int, list[int], int, int, int]]]:
    """Return the log's position, and the heads of the rooms."""
    heads = await database.fetch(
        "SELECT room_row_id, heads, snapshot_row_id, live_index, position FROM room_heads"
        " ORDER BY room_row_id"
    )
    return await database.fetchval("SELECT position FROM logs"), [tuple(row) for row in heads]


@pytest.mark.usefixtures("log")
async def test_everything_moves_together(database: Database) -> None:
    async with database.connection() as connection:
        assert await commits.messages(connection, (1, 1, 3), ROWS, HEADS, SENT)
    assert await state(database) == (3, [(OTHER, [3], 50, 3, 3), (ROOM, [2], 50, 2, 2)])
    found = await EventTable(database).by_id(["$2", "$3"])
    assert {row.event_id: row.room_id for row in found} == {"$2": "!r", "$3": "!o"}
    assert await TransactionTable(database).find("@u:a", "D", b"key") is not None


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("moved", [(2, 1, 3), (0, 1, 3), (1, 0, 3), (1, 2, 3)])
async def test_a_log_of_another_epoch_or_position_stays_as_it_is(
    database: Database, moved: tuple[int, int, int]
) -> None:
    """A stalled owner comes back: its statement must do nothing at all."""
    before = await state(database)
    async with database.connection() as connection:
        assert not await commits.messages(connection, moved, ROWS, HEADS, SENT)
    assert await state(database) == before
    assert await EventTable(database).by_id(["$2", "$3"]) == []
    assert await TransactionTable(database).find("@u:a", "D", b"key") is None


@pytest.mark.usefixtures("log")
async def test_a_batch_without_transactions_or_of_no_room(database: Database) -> None:
    async with database.connection() as connection:
        assert await commits.messages(connection, (1, 1, 2), ROWS[:1], HEADS[:1], [])
        assert await commits.messages(connection, (1, 2, 3), [], [], [])
    assert await state(database) == (3, [(OTHER, [1], 50, 1, 1), (ROOM, [2], 50, 2, 2)])


@pytest.mark.usefixtures("log")
async def test_a_batch_in_which_a_message_has_a_relation_keeps_it(database: Database) -> None:
    """Beside messages without one."""
    related = msgspec.structs.replace(ROWS[0], relates_to="$1", rel_type="m.replace", edited_ms=7)
    async with database.connection() as connection:
        assert await commits.messages(connection, (1, 1, 3), [related, ROWS[1]], HEADS, SENT)
    rows = await database.fetch(
        "SELECT relates_to, rel_type, edited_ms FROM events ORDER BY event_row_id"
    )
    assert [tuple(row) for row in rows] == [("$1", "m.replace", 7), (None, None, None)]
