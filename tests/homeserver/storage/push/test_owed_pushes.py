"""What pushers are owed, in the database."""

from __future__ import annotations

import pytest

from federation.events.ids import EventId, RoomId, UserId
from homeserver.storage.database import Database
from homeserver.storage.push.owed_pushes import NewPush, OwedPush, OwedPushTable

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")


@pytest.fixture
def table(database: Database) -> OwedPushTable:
    return OwedPushTable(database)


def push(position: int, room: str = "a", *, owed_ms: int = 10) -> OwedPush:
    return OwedPush(position, RoomId(f"!{room}"), EventId(f"${position}"), b'["notify"]', owed_ms)


async def store(table: OwedPushTable, *pushes: OwedPush, user: UserId = ALICE) -> None:
    await table.store([NewPush(user, one) for one in pushes])


async def unread(
    table: OwedPushTable, *, after: int = 0, since_ms: int = 0, limit: int = 99
) -> list[OwedPush]:
    return await table.unread(ALICE, after=after, since_ms=since_ms, limit=limit)


async def set_pusher(database: Database, user: UserId, pushkey: str, cursor: int) -> None:
    await database.execute(
        "INSERT INTO pushers (user_id, app_id, pushkey, device_id, kind, app_display_name,"
        " device_display_name, profile_tag, lang, data, set_ms, cursor)"
        " VALUES ($1, 'app', $2, 'D', 'http', '', '', '', '', '', 0, $3)"
        " ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET cursor = excluded.cursor",
        user,
        pushkey,
        cursor,
    )


async def count_event(database: Database, one: OwedPush, place: int, thread: str = "main") -> None:
    await database.execute(
        "INSERT INTO push_events VALUES ($1, $2, $3, $4, 1, '{}', '{}')",
        one.room_id,
        place,
        one.event_id,
        thread,
    )


async def read(database: Database, room: str, thread: str, place: int) -> None:
    await database.execute(
        "INSERT INTO push_reads VALUES ($1, $2, $3, $4, 0)", f"!{room}", ALICE, thread, place
    )


async def test_rows_are_read_in_order_past_a_position_and_a_time(table: OwedPushTable) -> None:
    first, second, third = push(3), push(1), push(2, owed_ms=5)
    await store(table, first, second, third)
    await store(table, push(9), user=BOB)
    assert await unread(table) == [second, third, first]
    assert await unread(table, limit=2) == [second, third]
    assert await unread(table, after=1) == [third, first]
    assert await unread(table, since_ms=5) == [second, first]
    assert await unread(table, since_ms=10) == []


async def test_a_row_that_is_stored_again_stays_as_it_is(table: OwedPushTable) -> None:
    await store(table, push(1, owed_ms=10))
    await store(table, push(1, owed_ms=20), push(2))
    assert await unread(table) == [push(1, owed_ms=10), push(2)]


async def test_what_is_read_in_its_thread_or_in_the_room_is_not_owed(
    table: OwedPushTable, database: Database
) -> None:
    pushes = [push(n, room) for n, room in enumerate("aaabbb", 1)]
    await store(table, *pushes, push(7, "invite"))
    for place, (one, thread) in enumerate(zip(pushes, ("main", "$t") * 3, strict=True)):
        await count_event(database, one, place, thread)
    await read(database, "a", "$t", 1)  # the second of them
    await read(database, "b", "", 4)
    assert [one.position for one in await unread(table)] == [1, 3, 6, 7]


async def test_the_newest_of_each_room_is_of_the_unread_ones(
    table: OwedPushTable, database: Database
) -> None:
    pushes = [push(n, room) for n, room in enumerate("abacb", 1)]
    await store(table, *pushes)
    await count_event(database, pushes[4], 0)
    await read(database, "b", "", 0)

    async def newest(*, after: int = 0, up_to: int | None = None, limit: int = 9) -> list[int]:
        found = await table.newest_of_rooms(
            ALICE, after=after, up_to=up_to, since_ms=0, limit=limit
        )
        return [one.position for one in found]

    assert await newest() == [2, 3, 4]
    assert await newest(limit=2) == [3, 4]
    assert await newest(after=2) == [3, 4]
    assert await newest(up_to=3) == [2, 3]
    assert await newest(up_to=2) == [1, 2]


async def test_pushers_lag_that_have_rows_past_their_cursor(
    table: OwedPushTable, database: Database
) -> None:
    await store(table, push(5))
    await set_pusher(database, ALICE, "behind", 4)
    await set_pusher(database, ALICE, "done", 5)
    await set_pusher(database, BOB, "other", 0)
    lagging = await table.lagging(since_ms=0)
    behind = await database.fetchval("SELECT pusher_id FROM pushers WHERE pushkey = 'behind'")
    assert lagging == [(ALICE, behind)]
    assert await table.lagging(since_ms=10) == []


async def test_pushers_that_failed_lag_too(table: OwedPushTable, database: Database) -> None:
    await set_pusher(database, ALICE, "fails", 5)
    assert await table.lagging(since_ms=0) == []
    await database.execute("UPDATE pushers SET retry_at_ms = 1")
    assert [user for user, _ in await table.lagging(since_ms=0)] == [ALICE]


async def test_rows_go_when_all_pushers_were_told_or_when_they_are_old(
    table: OwedPushTable, database: Database
) -> None:
    await store(table, push(5), push(6, owed_ms=20))
    await store(table, push(5), user=BOB)
    for pushkey in ("phone", "tablet"):
        await set_pusher(database, ALICE, pushkey, 4)
    await table.prune(before_ms=0)
    rows = "SELECT user_id, position FROM owed_pushes ORDER BY user_id, position"
    assert [tuple(row) for row in await database.fetch(rows)] == [(ALICE, 5), (ALICE, 6)]
    await set_pusher(database, ALICE, "phone", 6)
    await table.prune(before_ms=0)
    assert len(await database.fetch(rows)) == 2
    await set_pusher(database, ALICE, "tablet", 5)
    await table.prune(before_ms=0)
    assert [tuple(row) for row in await database.fetch(rows)] == [(ALICE, 6)]
    await table.prune(before_ms=20)
    assert len(await database.fetch(rows)) == 1
    await table.prune(before_ms=21)
    assert await database.fetch(rows) == []
