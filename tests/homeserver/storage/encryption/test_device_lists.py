"""Changes of device lists in the database: what was touched, and stream IDs that grow."""

import pytest

from federation.events.ids import DeviceId, EventId, RoomId, UserId
from homeserver.engine.entries import DeviceListEntry
from homeserver.storage.database import Database
from homeserver.storage.encryption import device_lists
from homeserver.storage.encryption.device_lists import (
    CROSS_SIGNING,
    IDS_PER_MS,
    DeviceListChange,
    DeviceListTable,
    RoomChange,
)
from homeserver.storage.text import escape

ALICE, BOB, CAROL = (UserId(f"@{name}:hs1") for name in ("alice", "bob", "carol"))
A, B, C = (DeviceId(name) for name in "ABC")


@pytest.fixture
def table(database: Database) -> DeviceListTable:
    return DeviceListTable(database)


async def append(
    database: Database, *users: tuple[int, UserId], touched: dict[UserId, list[DeviceId]]
) -> None:
    """Store one batch of entries (position, user) with the devices that its units touched."""
    async with database.transaction() as connection:
        for user_id, devices in touched.items():
            await device_lists.touch(connection, user_id, devices)
        rows = [(position, DeviceListEntry(user_id)) for position, user_id in users]
        await device_lists.append(connection, rows)


async def change_at(table: DeviceListTable, position: int) -> DeviceListChange:
    (found,) = await table.load_changes([position])
    return found


async def test_a_change_has_the_devices_that_its_user_touched(
    database: Database, table: DeviceListTable
) -> None:
    touched = {ALICE: [B, A, B], BOB: [C, CROSS_SIGNING]}
    await append(database, (1, ALICE), (2, BOB), (3, CAROL), touched=touched)
    found = await table.load_changes([3, 1, 2, 99])
    assert [(one.position, one.user_id, sorted(one.devices)) for one in found] == [
        (1, ALICE, [A, B]),
        (2, BOB, [C]),
        (3, CAROL, []),
    ]
    assert [one.cross_signing for one in found] == [False, True, False]
    assert await database.fetchval("SELECT count(*) FROM device_list_touched") == 0
    assert await table.load_changes([]) == []


async def test_a_touch_is_not_left_for_the_next_batch(
    database: Database, table: DeviceListTable
) -> None:
    await append(database, (1, ALICE), touched={ALICE: [A]})
    await append(database, (2, ALICE), touched={})
    assert (await change_at(table, 2)).devices == ()


async def test_a_change_refers_to_the_user_s_change_before(
    database: Database, table: DeviceListTable
) -> None:
    await append(database, (1, ALICE), (2, BOB), (3, ALICE), touched={})
    await append(database, (4, ALICE), touched={})
    first, other, second, third = await table.load_changes(range(1, 5))
    assert [first.previous_id, other.previous_id] == [None, None]
    assert [second.previous_id, third.previous_id] == [first.stream_id, second.stream_id]
    assert first.stream_id < second.stream_id < third.stream_id


async def test_each_device_of_a_change_has_a_stream_id(
    database: Database, table: DeviceListTable
) -> None:
    now_id = await table.stream_id_now()
    await append(database, (1, ALICE), touched={ALICE: [A, B, C]})
    first = await change_at(table, 1)
    assert first.stream_id >= now_id + 3
    assert (first.stream_id - 3) % IDS_PER_MS == 0
    ahead = first.stream_id + 10**9  # The clock was set back since.
    await database.execute("UPDATE device_list_changes SET stream_id = $1", ahead)
    await append(database, (2, ALICE), touched={ALICE: [A, B]})
    assert (await change_at(table, 2)).stream_id == ahead + 2
    await append(database, (3, ALICE), touched={ALICE: [CROSS_SIGNING]})
    assert (await change_at(table, 3)).stream_id == ahead + 3
    async with database.connection() as connection:
        assert await device_lists.latest_stream_id(connection, ALICE) == ahead + 3
        assert await device_lists.latest_stream_id(connection, BOB) == 0


async def test_users_with_a_change_in_a_stretch_are_found(
    database: Database, table: DeviceListTable
) -> None:
    await append(database, (1, ALICE), (2, BOB), (3, BOB), (4, CAROL), touched={})
    assert await table.changed_between(after=1, up_to=3) == {BOB}
    assert await table.changed_between(after=0, up_to=4) == {ALICE, BOB, CAROL}
    assert await table.changed_between(after=4, up_to=9) == set()


async def test_changes_of_members_and_of_encryption_are_found_for_some_rooms(
    database: Database, table: DeviceListTable
) -> None:
    rooms = [RoomId(f"!{number}:hs1") for number in (1, 2, 3)]
    for number, room_id in enumerate(rooms, 1):
        await database.execute("INSERT INTO rooms VALUES ($1, $2, '10')", number, room_id)
    for row in (
        (1, 1, "m.room.member", ALICE, "$early", "join", None),
        (1, 3, "m.room.member", escape("a\0b"), "$a", "join", "invite"),
        (2, 2, "m.room.encryption", "", None, None, None),
        (2, 4, "m.room.name", "", "$name", None, None),
        (3, 4, "m.room.member", ALICE, "$other", "join", None),
        (1, 5, "m.room.member", ALICE, "$b", "leave", "join"),
        (1, 6, "m.room.member", ALICE, "$late", "join", "leave"),
    ):
        await database.execute(
            "INSERT INTO state_changes (room_row_id, position, type, state_key, event_id,"
            " membership, former) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            *row,
        )
    assert await table.state_between(rooms[:2], after=1, up_to=5) == [
        RoomChange(rooms[1], ("m.room.encryption", ""), None, None, None),
        RoomChange(rooms[0], ("m.room.member", "a\0b"), EventId("$a"), "join", "invite"),
        RoomChange(rooms[0], ("m.room.member", ALICE), EventId("$b"), "leave", "join"),
    ]
