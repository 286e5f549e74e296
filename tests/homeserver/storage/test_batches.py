"""Batches, in the database: whole or not at all, under the log's epoch and position."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from homeserver.storage.batches import CommitRows, ImportedMemberRows, KnownMember, LogRows
from homeserver.storage.database import Connection, Database
from homeserver.storage.log_writer import LogWriter
from homeserver.storage.rooms.memberships import MembershipRow, MembershipTable
from homeserver.storage.rooms.rooms import RoomTable
from homeserver.storage.timeline.events import EventTable
from homeserver.storage.timeline.gaps import GapTable
from homeserver.storage.timeline.rechecks import RecheckRows
from homeserver.storage.timeline.transactions import TransactionTable
from tests.homeserver.storage.event_rows import OTHER, ROOM, placed


class Rows:
    """A batch of rows, with a statement of a unit."""

    def __init__(self, rows: CommitRows, *, is_plain: bool = False, work: str = "") -> None:
        self.sent = False
        self.is_plain, self._rows, self._work = is_plain, rows, work

    @property
    def has_work(self) -> bool:
        return bool(self._work)

    async def run_work(self, connection: Connection) -> None:
        await connection.execute(self._work)

    def rows(self, epoch: int) -> CommitRows:
        return self._rows


@pytest.fixture
async def log(database: Database) -> AsyncIterator[LogWriter]:
    """The log's owner, of epoch 1, and a room whose newest event is at 1."""
    writer = LogWriter(database)
    await writer.take_over("h")
    first = CommitRows(1, 0, 1)
    first.rooms = [(ROOM, "!r", "11"), (OTHER, "!other", "11")]
    first.events = [placed(1, "$1")]
    first.heads = [(ROOM, [1], 50, 1, 1), (OTHER, [7], 60, 7, 1)]
    assert await writer.write(Rows(first), 1)
    yield writer
    await writer.disconnect()


def messages(old: int = 1, *names: str) -> CommitRows:
    """Messages after `old`."""
    rows = CommitRows(1, old, old + len(names))
    rows.events = [placed(old + 1 + i, name) for i, name in enumerate(names)]
    rows.heads = [(ROOM, [old + len(names)], 99, old + len(names), old + len(names))]
    rows.sent = [("@u:a", "D", names[0].encode(), names[0], old + 1)] if names else []
    return rows


async def heads(database: Database) -> dict[str, tuple[list[int], int, int]]:
    found = await RoomTable(database).by_room_ids(["!r", "!other"])
    return {str(row.room_id): (row.heads, row.snapshot_row_id, row.position) for row in found}


async def test_messages_move_the_heads_and_leave_the_state(
    database: Database, log: LogWriter
) -> None:
    batch = Rows(messages(1, "$2", "$3"), is_plain=True)
    assert await log.write(batch, 1)
    assert batch.sent
    assert await heads(database) == {"!r": ([3], 50, 3), "!other": ([7], 60, 1)}
    assert len(await EventTable(database).by_id(["$2", "$3"])) == 2
    assert await TransactionTable(database).find("@u:a", "D", b"$2") is not None
    assert await log.settled_position(1, 0) == 3


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize(("epoch", "old"), [(2, 1), (0, 1), (1, 0), (1, 2)])
async def test_nothing_is_written_if_the_log_is_anothers_or_elsewhere(
    database: Database, log: LogWriter, is_plain: bool, epoch: int, old: int
) -> None:
    rows = messages(old, "$2")
    rows.epoch = epoch
    assert not await log.write(Rows(rows, is_plain=is_plain), epoch)
    assert await heads(database) == {"!r": ([1], 50, 1), "!other": ([7], 60, 1)}
    assert await EventTable(database).by_id(["$2"]) == []
    assert await TransactionTable(database).find("@u:a", "D", b"$2") is None
    assert await log.settled_position(1, 0) == 1


@pytest.mark.parametrize("is_plain", [True, False])
async def test_a_conflict_leaves_nothing_of_the_batch(
    database: Database, log: LogWriter, is_plain: bool
) -> None:
    rows = messages(1, "$2", "$1")
    # the number of the one before
    rows.events[1] = msgspec.structs.replace(rows.events[1], event_row_id=2)
    rows.sent *= 2
    batch = Rows(rows, is_plain=is_plain)
    with pytest.raises(Exception, match=r"unique|duplicate"):
        await log.write(batch, 1)
    assert batch.sent is is_plain, "a statement may have committed; a transaction can't have"
    assert await EventTable(database).by_id(["$2"]) == []
    assert await log.settled_position(1, 0) == 1
    assert await log.write(Rows(messages(1, "$2"), is_plain=is_plain), 1), "the log goes on"


async def test_units_own_work_commits_with_the_batch_or_not_at_all(
    database: Database, log: LogWriter
) -> None:
    work = "INSERT INTO rooms (room_row_id, room_id, version) VALUES ({}, '!{}', '')"
    assert await log.write(Rows(messages(1, "$2"), is_plain=True, work=work.format(20, 20)), 1)
    assert not await log.write(Rows(messages(9, "$3"), is_plain=True, work=work.format(21, 21)), 1)
    with pytest.raises(Exception, match=r"unique|duplicate"):
        await log.write(Rows(messages(2, "$4"), work=work.format(22, 20)), 1)
    found = await database.fetch("SELECT room_row_id FROM rooms WHERE room_row_id >= 20")
    assert [row[0] for row in found] == [20]
    assert [row.event_id for row in await EventTable(database).by_id(["$2", "$3", "$4"])] == ["$2"]


async def test_a_gap_that_the_batch_itself_fills_is_closed(
    database: Database, log: LogWriter
) -> None:
    rows = messages(1, "$2")
    rows.gaps = [(ROOM, "$2", 2, 0), (ROOM, "$missing", 2, 0), (OTHER, "$2", 5, 0)]
    rows.rechecks = RecheckRows(placed=[(ROOM, "$2")])
    assert await log.write(Rows(rows), 1)
    found = await GapTable(database).of_rooms([ROOM, OTHER])
    assert sorted((one.room_row_id, one.missing) for one in found) == [
        (OTHER, "$2"),
        (ROOM, "$missing"),
    ]


async def test_stays_of_a_server_that_begin_and_end_within_a_batch(
    database: Database, log: LogWriter
) -> None:
    async def stays() -> list[tuple[int, int | None]]:
        found = await database.fetch(
            "SELECT joined_position, left_position FROM room_servers WHERE server = 'x' ORDER BY 1"
        )
        return [(row[0], row[1]) for row in found]

    rows = messages(1, "$2")
    rows.servers_joined, rows.servers_left = [(ROOM, "x", 2)], [(ROOM, "x", 3)]
    assert await log.write(Rows(rows), 1)
    assert await stays() == [(2, 3)], "it would be sent the room's events for ever"
    rows = messages(rows.up_to, "$3")
    rows.servers_joined = [(ROOM, "x", 6)]
    assert await log.write(Rows(rows), 1)
    rows = messages(rows.up_to, "$4")
    rows.servers_joined = [(ROOM, "x", 8)]
    rows.servers_left = [(ROOM, "x", 9), (ROOM, "x", 7)]
    assert await log.write(Rows(rows), 1)
    assert await stays() == [(2, 3), (6, 7), (8, 9)]


async def test_imported_members_come_before_those_of_the_batch(
    database: Database, log: LogWriter
) -> None:
    rows = messages(1, "$2")
    imported = [MembershipRow(ROOM, user, "join", "$i", user, 1) for user in ("@a:x", "@b:x")]
    rows.imported = [ImportedMemberRows(ROOM, imported, ["x", "y"], 2)]
    rows.members = [MembershipRow(ROOM, "@a:x", "leave", "$l", "@a:x", 2)]
    rows.servers_left = [(ROOM, "y", 3)]
    rows.servers_joined = [(ROOM, "z", 2)]
    known = KnownMember("!far", "@u:a", "invite", "$f", "@s:far", 2, b"[]", b"{}", "11")
    rows.log = LogRows(memberships=[known])
    assert await log.write(Rows(rows), 1)
    table = MembershipTable(database)
    members = [await table.of_user_in(user, "!r") for user in ("@a:x", "@b:x")]
    assert [one and one.membership for one in members] == ["leave", "join"]
    assert sorted(await table.servers_sharing("@b:x", "own")) == ["x", "z"]
    outside = await table.of_user_in("@u:a", "!far")
    assert outside is not None
    assert (outside.membership, outside.event, outside.version) == ("invite", b"{}", "11")
