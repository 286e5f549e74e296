"""Events, in the database: which write counts, room order, and what stays as it is."""

from __future__ import annotations

import pytest

from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms
from homeserver.storage.timeline import events
from homeserver.storage.timeline.events import EventRow, EventTable, Refusal, StoredVerdict
from tests.homeserver.storage.event_rows import OTHER, ROOM, outlier, placed


@pytest.fixture
async def table(database: Database) -> EventTable:
    async with database.connection() as connection:
        await rooms.ensure(connection, ROOM, "!r", "11")
        await rooms.ensure(connection, OTHER, "!other", "12")
    return EventTable(database)


async def insert(database: Database, *rows: EventRow) -> None:
    async with database.connection() as connection:
        await events.insert(connection, rows)


async def test_an_event_is_read_as_it_was_written(database: Database, table: EventTable) -> None:
    row = placed(
        1,
        "$a",
        state_key="",
        membership="join",
        replaces="$b",
        transaction_of="D\nt",
        sender="@v:b",
    ).decided(StoredVerdict.SOFT_FAILED, Refusal("rule: why", "rule"))
    await insert(database, row)
    [stored] = await table.by_id(["$a", "$unknown"])
    assert stored.to_write() == row
    assert isinstance(stored.verdict, StoredVerdict)
    assert (stored.room_id, stored.version, stored.redacts) == ("!r", "11", None)
    assert stored.refusal == Refusal("rule: why", "rule")
    assert await table.raw_by_id(["$a", "$unknown"]) == {"$a": b"1"}


async def test_a_later_write_gives_an_outlier_its_place_and_corrects_an_unverified_event(
    database: Database, table: EventTable
) -> None:
    first = [
        outlier(1, "$outlier"),
        placed(2, "$unverified", unverified=True),
        placed(3, "$final"),
        placed(4, "$still", unverified=True),
    ]
    await insert(database, *first)
    later = [
        placed(11, "$outlier", OTHER),
        placed(12, "$unverified", verdict=StoredVerdict.REJECTED, rule="r", live_index=None),
        placed(13, "$final"),
        placed(14, "$still", unverified=True),
    ]
    await insert(database, *later)
    found = {str(row.event_id): row for row in await table.by_id([one.event_id for one in first])}
    assert found["$outlier"].order == (11, 0)
    assert (found["$outlier"].event_row_id, found["$outlier"].room_id) == (1, "!r"), "it stays here"
    assert (found["$unverified"].order, found["$unverified"].rule) == (None, "r")
    assert (found["$final"].order, found["$still"].order) == ((3, 0), (4, 0))


async def test_pages_are_in_room_order_and_of_one_room(
    database: Database, table: EventTable
) -> None:
    await insert(
        database,
        *(placed(number, f"${number}") for number in (3, 1, 2)),
        placed(7, "$h1", live_index=2, gap_index=-1, position=None),
        placed(8, "$h2", live_index=2, gap_index=-2, position=None),
        outlier(9, "$outlier"),
        placed(4, "$4", OTHER),
    )

    def ids(rows: object) -> list[str]:
        return [row.event_id for row in rows]  # type: ignore[attr-defined]

    assert ids(await table.before(ROOM, (9, 0), 4)) == ["$3", "$2", "$h1", "$h2"]
    assert ids(await table.before(ROOM, (2, -1), 9)) == ["$h2", "$1"], "the place is left out"
    assert ids(await table.behind(ROOM, (2, -2), 2)) == ["$h1", "$2"]
    assert ids(await table.newest(ROOM, after=1, up_to=3, limit=9)) == ["$3", "$2"]
    assert ids(await table.newest(ROOM, after=0, up_to=3, limit=1)) == ["$3"]
    each = await table.newest_of_each([ROOM, OTHER, 7], 2)
    assert sorted(ids(each)) == ["$2", "$3", "$4"]
    assert [await table.order_at(ROOM, at) for at in (0, 2, 9)] == [None, (2, 0), (3, 0)]
    assert [await table.lowest_gap_index(ROOM, at) for at in (2, 3)] == [-2, 0]


async def test_only_fetched_history_moves(database: Database, table: EventTable) -> None:
    await insert(database, placed(1, "$live"), placed(2, "$old", live_index=1, gap_index=-1))
    async with database.connection() as connection:
        await events.move(connection, [("$live", 5, -5), ("$old", 4, -4), ("$unknown", 1, -1)])
    found = {str(row.event_id): row.order for row in await table.by_id(["$live", "$old"])}
    assert found == {"$live": (1, 0), "$old": (4, -4)}


async def test_a_redaction_changes_its_target_in_its_own_room(
    database: Database, table: EventTable
) -> None:
    await insert(database, placed(1, "$target"), placed(2, "$by"), placed(3, "$else", OTHER))
    async with database.connection() as connection:
        for room, target in ((ROOM, "$target"), (ROOM, "$else")):
            await events.redact(connection, room, target, json=b"{}", redacted_by="$by")
    found = {str(row.event_id): row for row in await table.by_id(["$target", "$by", "$else"])}
    assert (found["$target"].json, found["$target"].redacted_by) == (b"{}", "$by")
    assert (found["$else"].json, found["$else"].redacted_by) == (b"3", None)
    assert (found["$by"].json, found["$by"].redacted_by) == (b"2", None)


async def test_snapshots_are_known_of_events_with_a_place_in_the_graph(
    database: Database, table: EventTable
) -> None:
    await insert(
        database,
        placed(1, "$a", snapshot_before=5, snapshot_after=6),
        outlier(2, "$o", snapshot_before=7, snapshot_after=8),
    )
    assert [await table.snapshot_before(ROOM, one) for one in ("$a", "$o", "$x")] == [5, None, None]
    assert [await table.snapshot_after(room, "$a") for room in (ROOM, OTHER)] == [6, None]
    [around] = await table.snapshots_around(ROOM, ["$a", "$o"])
    assert (around.event_id, around.snapshot_before, around.snapshot_after) == ("$a", 5, 6)
    assert await table.snapshots_around(OTHER, ["$a"]) == []
    assert [row.event_id for row in await table.with_place(ROOM, after=0, limit=9)] == ["$a"]


async def test_the_outcome_of_a_lost_commit_is_told_by_rows_in_their_exact_form(
    database: Database, table: EventTable
) -> None:
    await insert(database, placed(1, "$a", unverified=True), outlier(2, "$o"))
    async with database.connection() as connection:
        for row, expected in (
            ((ROOM, 1, True), True),
            ((ROOM, 1, False), False),
            ((OTHER, 1, True), False),
            ((ROOM, 2, False), False),
        ):
            assert await events.any_placed(connection, [row]) is expected
        assert not await events.any_placed(connection, [])


async def test_state_events_come_by_row_number(database: Database, table: EventTable) -> None:
    await insert(
        database,
        outlier(5, "$5"),
        outlier(3, "$3", verdict=StoredVerdict.REJECTED),
        outlier(4, "$4", OTHER),
        placed(6, "$message"),
    )
    found = await table.state_events(ROOM, after=0, limit=9)
    assert [(row.event_row_id, row.event_id, row.json) for row in found] == [
        (3, "$3", b"3"),
        (5, "$5", b"5"),
    ]
    assert [row.event_id for row in await table.state_events(ROOM, after=3, limit=1)] == ["$5"]
    refs = await table.refs([(ROOM, 5), (OTHER, 5), (OTHER, 4)])
    assert sorted(row.event_id for row in refs) == ["$4", "$5"]
