"""Receipts in the database: the latest of each room, user, kind and thread."""

import pytest

from federation.events.ids import EventId, RoomId, UserId
from homeserver.engine.entries import ReceiptEntry
from homeserver.storage.database import Database
from homeserver.storage.ephemeral import receipts
from homeserver.storage.ephemeral.receipts import Receipt, ReceiptTable

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs2")
ROOM, OTHER = RoomId("!room:hs1"), RoomId("!other:hs1")


@pytest.fixture
def table(database: Database) -> ReceiptTable:
    return ReceiptTable(database)


def receipt(
    position: int,
    event_id: str,
    *,
    room_id: RoomId = ROOM,
    user_id: UserId = ALICE,
    kind: str = "m.read",
    thread: str = "",
) -> Receipt:
    """Return a receipt whose time is its position in thousands."""
    return Receipt(room_id, user_id, kind, thread, EventId(event_id), 1000 * position, position)


async def append(database: Database, *rows: Receipt) -> None:
    """Store the log's entries of some receipts, as one batch."""
    entries = [
        ReceiptEntry(row.room_id, row.user_id, row.kind, row.thread, row.event_id, row.ts)
        for row in rows
    ]
    async with database.transaction() as connection:
        positions = [row.position for row in rows]
        await receipts.append(connection, list(zip(positions, entries, strict=True)))


async def test_a_receipt_is_one_of_a_room_a_user_a_kind_and_a_thread(
    database: Database, table: ReceiptTable
) -> None:
    rows = [
        receipt(1, "$a"),
        receipt(2, "$b", room_id=OTHER),
        receipt(3, "$c", user_id=BOB),
        receipt(4, "$d", kind="m.read.private"),
        receipt(5, "$e", thread="main"),
        receipt(6, "$f", thread="$thread"),
    ]
    await append(database, *rows)
    assert await table.load_between([ROOM, OTHER], after=0, up_to=9) == rows
    assert await table.load_of_user(OTHER, ALICE) == [rows[1]]
    assert await table.load_of_user(ROOM, BOB) == [rows[2]]
    assert await table.load_of_user(OTHER, BOB) == []
    own = await table.load_of_user(ROOM, ALICE)
    assert sorted(own, key=lambda row: row.position) == [rows[0], *rows[3:]]


async def test_the_last_of_a_batch_and_of_all_batches_counts(
    database: Database, table: ReceiptTable
) -> None:
    await append(database, receipt(1, "$a"), receipt(2, "$b"))
    assert await table.load_of_user(ROOM, ALICE) == [receipt(2, "$b")]
    await append(database, receipt(3, "$c"))
    assert await table.load_between([ROOM], after=0, up_to=9) == [receipt(3, "$c")]


async def test_a_stretch_of_the_log_has_its_end_and_not_its_start(
    database: Database, table: ReceiptTable
) -> None:
    rows = [receipt(at, "$e", thread=str(at)) for at in (4, 2, 1, 3)]
    await append(database, *rows, receipt(5, "$e", room_id=OTHER))
    found = await table.load_between([ROOM, RoomId("!unknown:hs1")], after=1, up_to=3)
    assert [row.position for row in found] == [2, 3]
    assert await table.load_between([], after=0, up_to=9) == []
