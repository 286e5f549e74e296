"""Related events in the database: which children count, and in which order they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from federation.events.ids import EventId
from homeserver.storage.database import Database
from homeserver.storage.migrate import known_migrations
from homeserver.storage.rooms import rooms
from homeserver.storage.rooms.rooms import RoomTable
from homeserver.storage.timeline import events
from homeserver.storage.timeline.events import EventRow, StoredVerdict
from homeserver.storage.timeline.relations import (
    ChildGroup,
    OrderSpan,
    Parent,
    RelationTable,
    Scope,
    ThreadWalk,
    WantedChildren,
)
from tests.homeserver.storage.event_rows import OTHER, ROOM, outlier, placed

NUMBER = 49
"""Of the migration."""

ALL = Scope("@me:a", 1_000, (), ":own")


@pytest.fixture
async def table(database: Database) -> RelationTable:
    async with database.connection() as connection:
        await rooms.ensure(connection, ROOM, "!r", "11")
        await rooms.ensure(connection, OTHER, "!other", "12")
    return RelationTable(database)


async def insert(database: Database, *rows: EventRow) -> None:
    """Stores events."""
    async with database.connection() as connection:
        await events.insert(connection, rows)


def child(row_id: int, parent: str, kind: str = "m.thread", **changes: Any) -> EventRow:
    """A live event with a relation."""
    room = changes.pop("room", ROOM)
    return placed(row_id, f"${row_id}", room, relates_to=parent, rel_type=kind, **changes)


def span(*, backwards: bool = True, limit: int = 100, stop: Any = None) -> OrderSpan:
    """A part of the room from one end on."""
    return OrderSpan((10_000, 0) if backwards else (-1, 0), stop, backwards, limit)


async def children(table: RelationTable, scope: Scope = ALL, kind: str | None = None) -> list[str]:
    """The children of $p, oldest first."""
    rows = await table.children(WantedChildren(ROOM, "$p", kind), scope, span(backwards=False))
    return [row.event_id for row in rows]


UNCOUNTED = {
    "of another room": child(20, "$p", room=OTHER),
    "of another event": child(21, "$q"),
    "an outlier": outlier(22, "$22", relates_to="$p", rel_type="m.thread"),
    "refused": child(
        23, "$p", verdict=StoredVerdict.REJECTED, live_index=None, gap_index=None, position=None
    ),
    "hidden": child(24, "$p", sender="@hidden:a"),
    "not there yet": child(25, "$p", position=1_001),
}


@pytest.mark.parametrize("why", UNCOUNTED)
async def test_only_events_with_a_place_count(
    database: Database, table: RelationTable, why: str
) -> None:
    """Of this room, up to the position, and of senders who aren't hidden."""
    history = child(2, "$p", live_index=1, gap_index=-1, position=None)
    await insert(database, child(1, "$p"), history, UNCOUNTED[why])
    scope = Scope("@me:a", 1_000, ["@hidden:a"], ":own")
    for kind in (None, "m.thread"):
        assert await children(table, scope, kind) == ["$2", "$1"]
    related = await table.descendants(
        WantedChildren(ROOM, "$p"), scope, span(backwards=False), depth=3, most=10
    )
    assert related is not None
    assert [row.event_id for row in related] == ["$2", "$1"]
    walk = ThreadWalk((10_000, 0), (10_000, 0), ["$q"], 10)
    assert [row.event_id for row in await table.in_threads(ROOM, scope, walk)] == ["$1"]
    for before, parents in (((10_000, 0), {"$p"}), ((0, 0), set())):
        found = await table.related_by(
            ROOM, ["$p", "$1"], scope, before=before, senders=None, rel_types=["m.thread"]
        )
        assert found == parents


async def test_a_redacted_event_has_no_relation(database: Database, table: RelationTable) -> None:
    """From the redaction on."""
    await insert(database, child(1, "$p"), child(2, "$p"))
    async with database.connection() as connection:
        await events.redact(connection, ROOM, "$1", json=b"{}", redacted_by="$r")
    assert await children(table) == ["$2"]


async def test_an_event_that_gets_its_place_later_keeps_its_relation(
    database: Database, table: RelationTable
) -> None:
    """An outlier that was stored with it; the row that gives the place may not have it."""
    await insert(database, outlier(1, "$1", relates_to="$p", rel_type="m.thread"))
    assert await children(table) == []
    await insert(database, placed(1, "$1"))
    assert await children(table) == ["$1"]


async def test_children_are_in_room_order_over_all_kinds(
    database: Database, table: RelationTable
) -> None:
    """Pages of any size, both ways, with an end."""
    kinds = ["b", "a", "c", "a", "b"]
    await insert(database, *(child(10 + i, "$p", kind) for i, kind in enumerate(kinds)))
    every = [f"${10 + i}" for i in range(5)]
    for limit in (1, 2, 5, 9):
        for backwards in (True, False):
            rows = await table.children(
                WantedChildren(ROOM, "$p"), ALL, span(backwards=backwards, limit=limit)
            )
            wanted = every[::-1] if backwards else every
            assert [row.event_id for row in rows] == wanted[:limit]
    upper = await table.children(WantedChildren(ROOM, "$p"), ALL, span(stop=(12, 0)))
    assert [row.event_id for row in upper] == ["$14", "$13", "$12"]
    lower = await table.children(
        WantedChildren(ROOM, "$p"), ALL, span(backwards=False, stop=(12, 0))
    )
    assert [row.event_id for row in lower] == ["$10", "$11"]
    of_kind = await table.children(WantedChildren(ROOM, "$p", "a", "m.x"), ALL, span())
    assert [row.event_id for row in of_kind] == ["$13", "$11"]
    assert not await table.children(WantedChildren(ROOM, "$p", "a", "m.y"), ALL, span())


async def test_a_loop_of_relations_ends(database: Database, table: RelationTable) -> None:
    """In old room versions servers chose the IDs of events."""
    await insert(
        database,
        placed(1, "$p", relates_to="$2", rel_type="x"),
        child(2, "$p", "x"),
        child(3, "$3", "x"),
    )
    for parent, wanted in (("$p", ["$2"]), ("$3", [])):
        found = await table.descendants(WantedChildren(ROOM, parent), ALL, span(), depth=3, most=10)
        assert found is not None
        assert [row.event_id for row in found] == wanted


def parent_of(event_id: str, **changes: Any) -> Parent:
    """An event that is asked about."""
    fields = {
        "room_row_id": ROOM,
        "event_id": event_id,
        "sender": "@u:a",
        "type": "m.x",
        "has_edits": True,
        "has_thread": True,
        "sure_after": 2**62,
        "snapshot": 2,
        "joined_until": (2**62, 0),
    }
    return Parent(**{**fields, **changes})


async def test_the_newest_edit_is_that_of_the_latest_time(
    database: Database, table: RelationTable
) -> None:
    """With equal times, the largest ID; of the same sender and type."""
    edit = {"kind": "m.replace"}
    await insert(
        database,
        child(10, "$p", edited_ms=5, **edit),
        child(11, "$p", edited_ms=9, **edit),
        child(12, "$p", edited_ms=9, **edit),
        child(13, "$p", edited_ms=7, **edit),
        child(14, "$p", edited_ms=99, sender="@v:a", **edit),
        child(15, "$p", edited_ms=99, type="m.y", **edit),
        child(16, "$p", **edit),
    )
    found = await table.bundled([parent_of("$p"), parent_of("$q")], ALL, most_references=9)
    assert {one: row.event_id for one, row in found.edits.items()} == {"$p": "$12"}
    older = await table.edits(parent_of("$p"), ALL, skip=1, limit=2)
    assert [row.event_id for row in older] == ["$11", "$13"]
    none = await table.bundled([parent_of("$p", has_edits=False)], ALL, most_references=9)
    assert not none.edits


async def test_events_with_the_same_states_are_one_group(
    database: Database, table: RelationTable
) -> None:
    """Those that are surely seen are another; so are those from before and after a time."""
    states: Any = {"snapshot_before": 7, "snapshot_after": 7}
    await insert(
        database,
        child(10, "$p"),
        child(11, "$p"),
        child(12, "$p", **states),
        child(13, "$p", sender="@me:own", **states),
        child(14, "$p", sender="@me:a", position=None, live_index=2, gap_index=-1),
    )
    parent = parent_of("$p", sure_after=11, joined_until=(11, 0))
    found = await table.bundled([parent], ALL, most_references=9)
    event = EventId("$p")
    assert sorted(found.counts, key=lambda one: one.sample) == [
        ChildGroup(event, EventId("$10"), 2, False, True),
        ChildGroup(event, EventId("$11"), 1, False, False),
        ChildGroup(event, EventId("$12"), 1, False, False),
        ChildGroup(event, EventId("$13"), 1, True, False),
    ]
    assert {one: row.event_id for one, row in found.latest.items()} == {event: "$13"}
    assert found.participated == {event}
    sure = await table.bundled([parent_of("$p", sure_after=0)], ALL, most_references=9)
    numbers = sorted((one.number, one.is_sure) for one in sure.counts)
    assert numbers == [(1, False), (1, False), (3, True)]


async def test_the_newest_event_of_a_thread_is_asked_about_too(
    database: Database, table: RelationTable
) -> None:
    await insert(
        database,
        child(10, "$p"),
        child(11, "$10", "m.replace", edited_ms=1),
        child(12, "$10", "m.reference"),
        child(13, "$p", "m.reference"),
        child(14, "$p", "m.reference"),
    )
    found = await table.bundled([parent_of("$p")], ALL, most_references=1)
    assert set(found.edits) == {"$10"}
    assert {(one.parent, one.sample) for one in found.references} == {("$10", "$12"), ("$p", "$13")}
    both = await table.bundled([parent_of("$p"), parent_of("$10")], ALL, most_references=1)
    assert len(both.references) == 2, "those of $10 are there once"
    none = await table.bundled([parent_of("$p", has_thread=False)], ALL, most_references=9)
    assert (none.latest, none.counts, none.edits) == ({}, [], {})


async def test_threads_are_walked_by_their_newest_events(
    database: Database, table: RelationTable
) -> None:
    """Each once; one whose newest event lies behind the place is marked as listed before."""
    for number, root in enumerate(["$a", "$b", "$a", "$c", "$b", "$b"], start=10):
        await insert(database, child(number, root))

    async def walk(before: int, ceiling: int = 100, limit: int = 9, *but: str) -> list[Any]:
        rows = await table.in_threads(ROOM, ALL, ThreadWalk((before, 0), (ceiling, 0), but, limit))
        return [(row.root, row.order[0], row.is_newest) for row in rows]

    whole = [("$b", 15, True), ("$c", 13, True), ("$a", 12, True)]
    assert await walk(100) == whole
    assert await walk(100, 100, 2) == whole[:2]
    assert await walk(100, 100, 9, "$b") == whole[1:]
    assert await walk(15) == [("$b", 14, False), *whole[1:]]
    assert await walk(100, 14) == [("$c", 13, True), ("$a", 12, True), ("$b", 11, True)]


async def test_annotations_of_a_user_are_found(database: Database, table: RelationTable) -> None:
    note = {"kind": "m.annotation"}
    await insert(
        database,
        child(10, "$p", **note),
        child(11, "$p", sender="@v:a", **note),
        child(12, "$p", type="m.y", **note),
        child(13, "$q", **note),
        child(14, "$p"),
    )
    assert await table.annotations(ROOM, "$p", "@u:a", "m.x") == [b"10"]


async def test_a_room_says_whether_it_has_relations(
    database: Database, table: RelationTable
) -> None:
    """Those without a place are none."""
    async with database.connection() as connection:
        await rooms.set_heads(connection, [(ROOM, [1], 1, 1, 1), (OTHER, [1], 1, 1, 1)])
    await insert(database, placed(1, "$1"), outlier(2, "$2", relates_to="$1", rel_type="x"))
    await insert(database, child(3, "$9", room=OTHER))
    found = await RoomTable(database).by_room_ids(["!r", "!other"])
    assert {row.room_id: row.has_relations for row in found} == {"!r": False, "!other": True}
    assert await children(table) == []


STORED = [
    ({"m.relates_to": {"rel_type": "m.thread", "event_id": "$p"}}, ("$p", "m.thread", None)),
    (
        {"m.relates_to": {"rel_type": "m.replace", "event_id": "$p"}, "m.new_content": {}},
        ("$p", "m.replace", 77),
    ),
    ({"m.relates_to": {"rel_type": "m.replace", "event_id": "$p"}}, ("$p", "m.replace", None)),
    ({"m.relates_to": {"event_id": "$p"}}, (None, None, None)),
    ({"m.relates_to": {"rel_type": 1, "event_id": "$p"}}, (None, None, None)),
    ({"m.relates_to": {"rel_type": "x", "event_id": "p"}}, (None, None, None)),
    ({"m.relates_to": {"rel_type": "x", "event_id": "$" + "p" * 255}}, (None, None, None)),
    ({"m.relates_to": {"rel_type": "x\0", "event_id": "$p"}}, (None, None, None)),
    ({"m.relates_to": []}, (None, None, None)),
    ({"m.relates_to": {"rel_type": "x", "event_id": "$p"}, "a": "\0"}, (None, None, None)),
    ({"body": "m.relates_to"}, (None, None, None)),
]


@pytest.fixture
async def before(postgres_url: str) -> AsyncIterator[Database]:
    """A database as it was before the columns."""
    database = await Database.open(postgres_url, connections=1)
    for step in known_migrations():
        if step.number < NUMBER:
            await database.execute(step.sql)
    yield database
    await database.close()


async def test_the_migration_reads_the_relations_of_stored_events(before: Database) -> None:
    """As they are read of new ones; what PostgreSQL can't read has none."""
    [step] = [one for one in known_migrations() if one.number == NUMBER]
    stored = [(content, "m.x") for content, _ in STORED]
    sealed = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$p"}}
    stored.append((sealed, "m.room.encrypted"))
    whole = [
        (orjson.dumps({"content": content, "origin_server_ts": 77}), kind)
        for content, kind in stored
    ]
    for number, (raw, kind) in enumerate([*whole, (b'{"m.relates_to": \xff', "m.x")]):
        await before.execute(
            "INSERT INTO events (room_row_id, event_row_id, event_id, type, sender, verdict,"
            " outlier, unverified, to_federate, json)"
            " VALUES (1, $1, $2, $3, '@u:a', 0, true, false, false, $4)",
            number,
            f"${number}",
            kind,
            raw,
        )
    await before.execute(step.sql)
    rows = await before.fetch(
        "SELECT relates_to, rel_type, edited_ms FROM events ORDER BY event_row_id"
    )
    wanted = [one for _, one in STORED]
    assert [tuple(row) for row in rows] == [*wanted, ("$p", "m.replace", 77), (None, None, None)]
