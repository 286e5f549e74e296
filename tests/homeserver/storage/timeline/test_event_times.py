"""Events by time, in the database."""

from __future__ import annotations

import random

from federation.events.ids import RoomId
from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms
from homeserver.storage.timeline import events
from homeserver.storage.timeline.event_times import EventTimeTable, TimedEventRow
from tests.homeserver.storage.event_rows import OTHER, ROOM, outlier, placed

HERE = RoomId("!r")


async def test_events_come_by_time_and_then_by_place_page_by_page(database: Database) -> None:
    chance = random.Random(1)
    times = {number: chance.randrange(20) for number in range(1, 40)}
    rows = [
        placed(number, f"${number}", sent_ms=times[number], gap_index=-(number % 3))
        for number in times
    ]
    others = [
        placed(50, "$50", OTHER, sent_ms=5),
        outlier(51, "$51", sent_ms=5),
        placed(52, "$52", sent_ms=None),
    ]
    async with database.transaction() as connection:
        await rooms.ensure(connection, ROOM, HERE, "11")
        await rooms.ensure(connection, OTHER, "!s", "11")
        await events.insert(connection, [*rows, *others])
    table = EventTimeTable(database)
    ordered = sorted((times[number], number, -(number % 3)) for number in times)
    for time_ms in range(-1, 21):
        for backwards in (False, True):
            side = [one for one in ordered if (one[0] <= time_ms) == backwards or one[0] == time_ms]
            wanted = [f"${number}" for _, number, _ in (side[::-1] if backwards else side)]
            found: list[str] = []
            last: TimedEventRow | None = None
            for _ in range(20):
                page = await table.nearest(HERE, time_ms, backwards=backwards, after=last, limit=7)
                found += [row.event_id for row in page]
                assert all(row.sent_ms == times[row.live_index] for row in page)
                if not page:
                    break
                last = page[-1]
            assert found == wanted, (time_ms, backwards)


async def test_an_unknown_room_has_none(database: Database) -> None:
    table = EventTimeTable(database)
    assert await table.nearest(RoomId("!x"), 0, backwards=False, limit=1) == []
