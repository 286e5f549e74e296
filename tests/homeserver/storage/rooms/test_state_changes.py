"""Records of resolutions: as many as are kept for each room, and no more."""

from __future__ import annotations

import pytest

from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from homeserver.storage.rooms import state_changes
from homeserver.storage.rooms.state_changes import ResolutionRow


def record(room_row_id: int, position: int) -> ResolutionRow:
    event_id = f'${position} "odd", {{}}'
    return ResolutionRow(room_row_id, position, event_id, 5, 1, 2, [event_id, "$b"], [3, 4])


@pytest.mark.parametrize(("count", "oldest"), [(100, 1), (101, 2)])
async def test_the_101st_record_of_a_room_drops_its_oldest(
    postgres_url: str, count: int, oldest: int
) -> None:
    assert limits.RESOLUTIONS_KEPT == 100
    database = await Database.open(postgres_url, connections=1)
    await migrate(database)
    async with database.connection() as connection:
        keep = limits.RESOLUTIONS_KEPT
        other = [record(2, position) for position in range(3)]
        await state_changes.record_resolutions(connection, other, kept=keep)
        rows = [record(1, position) for position in range(1, count + 1)]
        await state_changes.record_resolutions(connection, rows[:99], kept=keep)
        await state_changes.record_resolutions(connection, rows[99:], kept=keep)
        found = await state_changes.resolutions(connection, 1)
        assert [row["position"] for row in found] == list(range(count, oldest - 1, -1))
        assert found[0]["branch_events"] == [rows[-1].event_id, "$b"]
        assert found[0]["branch_snapshots"] == [3, 4]
        assert len(await state_changes.resolutions(connection, 2)) == 3
    await database.close()
