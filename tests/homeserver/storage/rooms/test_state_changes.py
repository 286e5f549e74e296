"""Records of resolutions: as many as are kept for each room, and no more."""

from __future__ import annotations

import pytest

from federation.events.ids import EventId
from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.rooms import state_changes
from homeserver.storage.rooms.state_changes import ResolutionRow, StateChangeTable


def record(room_row_id: int, position: int) -> ResolutionRow:
    event_id = EventId(f'${position} "odd", {{}}')
    branches = [event_id, EventId("$b")]
    return ResolutionRow(room_row_id, position, event_id, 5, 1, 2, branches, [3, 4])


@pytest.mark.parametrize(("count", "oldest"), [(100, 1), (101, 2)])
async def test_the_101st_record_of_a_room_drops_its_oldest(
    database: Database, count: int, oldest: int
) -> None:
    assert limits.RESOLUTIONS_KEPT == 100
    rows = [record(1, position) for position in range(1, count + 1)]
    async with database.connection() as connection:
        keep = limits.RESOLUTIONS_KEPT
        other = [record(2, position) for position in range(3)]
        await state_changes.record_resolutions(connection, other, kept=keep)
        await state_changes.record_resolutions(connection, rows[:99], kept=keep)
        await state_changes.record_resolutions(connection, rows[99:], kept=keep)
    table = StateChangeTable(database)
    assert await table.resolutions(1) == rows[::-1][: count - oldest + 1]
    assert len(await table.resolutions(2)) == 3
