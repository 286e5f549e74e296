"""Which events that notified stay, in the database."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from federation.events.ids import RoomId, ServerName
from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.push.old_notifications import OldNotificationTable
from homeserver.storage.rooms import rooms
from homeserver.storage.rooms.memberships import servers_joined, servers_left

US = "hs1"
KEPT = 3
_EVENT = (
    "INSERT INTO push_events (room_id, live_index, event_id, thread, usual, other_users,"
    " other_levels) VALUES ($1, $2, $3, 'main', 1, '{}', '{}')"
)
_ROOM = "INSERT INTO push_rooms (room_id, summed_to, is_pending) VALUES ($1, $2, $3)"
_OWED = (
    "INSERT INTO owed_pushes (user_id, position, room_id, event_id, actions, owed_ms)"
    " VALUES ('@a:hs1', $1, $2, $3, '[]', 0)"
)


class Rooms:
    """Rooms with events that notified."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.table = OldNotificationTable(database, ServerName(US))
        self._count = 0

    async def add(self, name: str, places: Iterable[int], *, summed_to: int | None = None) -> None:
        """A room that this server is in, with events at places; those past `summed_to` aren't in
        the stored counts."""
        self._count += 1
        async with self.database.connection() as connection:
            await rooms.ensure(connection, self._count, name, "11")
            await servers_joined(connection, [(self._count, US, 1), (self._count, "b", 1)])
        await self.database.execute(_ROOM, name, summed_to or 0, summed_to is not None)
        for place in places:
            await self.database.execute(_EVENT, name, place, f"${name}{place}")

    async def pruned(self, name: str, kept: int = KEPT) -> list[int]:
        """The places of a room's events once all rooms are pruned."""
        found = await self.table.rooms(RoomId(""))
        await self.table.prune(found, kept=kept)
        rows = await self.database.fetch(
            "SELECT live_index FROM push_events WHERE room_id = $1 ORDER BY live_index", name
        )
        return [row[0] for row in rows]


@pytest.fixture
async def world(database: Database) -> Rooms:
    return Rooms(database)


async def test_the_newest_of_each_room_stay(world: Rooms) -> None:
    await world.add("few", [1, 50, 90])
    await world.add("many", [1, 2, 3, 4])
    await world.add("sparse", [10, 20, 30, 40, 50])
    assert await world.pruned("few") == [1, 50, 90]
    assert await world.pruned("many") == [2, 3, 4]
    assert await world.pruned("sparse") == [30, 40, 50]
    assert await world.pruned("sparse", kept=2) == [40, 50]


async def test_what_is_not_counted_yet_stays(world: Rooms) -> None:
    await world.add("pending", range(1, 9), summed_to=2)
    assert await world.pruned("pending") == [3, 4, 5, 6, 7, 8]


async def test_what_is_owed_to_a_pusher_stays(world: Rooms) -> None:
    await world.add("owed", range(1, 7))
    await world.database.execute(_OWED, 7, "owed", "$owed2")
    assert await world.pruned("owed") == [2, 4, 5, 6]


async def test_of_a_room_that_was_left_nothing_stays(world: Rooms) -> None:
    await world.add("left", [1, 2])
    await world.add("ours", [1, 2])
    async with world.database.connection() as connection:
        await servers_left(connection, [(1, US, 2), (2, "b", 2)])
    assert await world.pruned("ours") == [1, 2]
    assert await world.pruned("left") == []


@pytest.mark.parametrize("at_once", [1, 2, 3, 4])
async def test_rooms_come_in_turn(
    world: Rooms, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(limits, "PUSH_ROOMS_PRUNED_AT_ONCE", at_once)
    for name in "cab":
        await world.add(name, [1])
    after: RoomId | None = RoomId("")
    found = []
    while after is not None:
        part = await world.table.rooms(after)
        assert len(part.room_ids) <= at_once
        found += part.room_ids
        after = part.last
    assert found == ["a", "b", "c"]
