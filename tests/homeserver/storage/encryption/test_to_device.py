"""Messages to devices in the database, and the records of requests."""

import pytest

from federation.events.ids import DeviceId, ServerName, UserId
from homeserver.engine.entries import ToDeviceEntry
from homeserver.storage.database import Database
from homeserver.storage.encryption import to_device
from homeserver.storage.encryption.to_device import ToDeviceTable, WaitingCount

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
REMOTE, OTHER = UserId("@remote:hs2"), UserId("@other:hs2")
OURS = UserId("")  # The sender isn't a user of another server.
PHONE, LAPTOP = DeviceId("PHONE"), DeviceId("LAPTOP")


@pytest.fixture
def table(database: Database) -> ToDeviceTable:
    return ToDeviceTable(database)


async def append(database: Database, *rows: tuple[int, ToDeviceEntry]) -> None:
    async with database.transaction() as connection:
        await to_device.append(connection, rows)


def to_phone(text: bytes, sender: UserId = OURS) -> ToDeviceEntry:
    return ToDeviceEntry(ALICE, PHONE, text, sender)


async def positions(table: ToDeviceTable, user_id: UserId, device_id: DeviceId) -> list[int]:
    found = await table.load(user_id, device_id, after=0, up_to=99, limit=99)
    return [position for position, _ in found]


async def test_the_oldest_messages_of_a_device_come_first(
    database: Database, table: ToDeviceTable
) -> None:
    await append(database, *((at, to_phone(b"\x00%d" % at)) for at in (4, 1, 3, 2, 5)))
    await append(database, (2, ToDeviceEntry(ALICE, LAPTOP, b"l")))
    await append(database, (3, ToDeviceEntry(BOB, PHONE, b"b")))
    found = await table.load(ALICE, PHONE, after=1, up_to=4, limit=9)
    assert found == [(2, b"\x002"), (3, b"\x003"), (4, b"\x004")]
    assert await table.load(ALICE, PHONE, after=1, up_to=4, limit=2) == found[:2]
    assert await positions(table, BOB, LAPTOP) == []


async def test_the_newest_message_of_each_device_is_known(
    database: Database, table: ToDeviceTable
) -> None:
    assert await table.newest() == {}
    await append(database, (5, to_phone(b"")), (1, to_phone(b"")))
    await append(database, (3, ToDeviceEntry(BOB, PHONE, b"")))
    assert await table.newest() == {(ALICE, PHONE): 5, (BOB, PHONE): 3}


async def test_messages_of_other_servers_are_counted_by_sender(
    database: Database, table: ToDeviceTable
) -> None:
    await append(
        database,
        (1, to_phone(b"12", REMOTE)),
        (2, to_phone(b"345", REMOTE)),
        (3, to_phone(b"6", OTHER)),
        (4, to_phone(b"of our own server")),
        (5, ToDeviceEntry(ALICE, LAPTOP, b"7", REMOTE)),
        (6, ToDeviceEntry(BOB, PHONE, b"not asked for", REMOTE)),
    )
    found = await table.count_by_sender([(ALICE, PHONE), (ALICE, LAPTOP), (BOB, LAPTOP)])
    assert sorted(found, key=lambda one: (one.device_id, one.sender)) == [
        WaitingCount(ALICE, LAPTOP, REMOTE, 1, 1),
        WaitingCount(ALICE, PHONE, OTHER, 1, 1),
        WaitingCount(ALICE, PHONE, REMOTE, 2, 5),
    ]
    assert await table.count_by_sender([]) == []


async def test_messages_are_deleted_up_to_a_position_for_one_device(
    database: Database, table: ToDeviceTable
) -> None:
    for user_id, device_id in ((ALICE, PHONE), (ALICE, LAPTOP), (BOB, PHONE)):
        entry = ToDeviceEntry(user_id, device_id, b"")
        await append(database, *((at, entry) for at in (1, 2, 3)))
    await table.delete(ALICE, PHONE, 2)
    assert await positions(table, ALICE, PHONE) == [3]
    assert await positions(table, ALICE, LAPTOP) == await positions(table, BOB, PHONE) == [1, 2, 3]


async def test_a_request_is_recorded_once(database: Database) -> None:
    key = (ALICE, PHONE, "m.x", "t")
    others = [
        (BOB, PHONE, "m.x", "t"),
        (ALICE, LAPTOP, "m.x", "t"),
        (ALICE, PHONE, "m.y", "t"),
        (ALICE, PHONE, "m.x", "u"),
    ]
    async with database.transaction() as connection:
        for one in (key, *others):
            assert await to_device.remember_transaction(connection, one, now_ms=1)
        assert not await to_device.remember_transaction(connection, key, now_ms=2)


async def test_another_server_s_message_is_recorded_once(database: Database) -> None:
    first, second = ServerName("hs2"), ServerName("hs3")
    async with database.transaction() as connection:
        for origin, message_id in ((first, "a"), (first, "b"), (second, "a")):
            assert await to_device.remember_remote(connection, origin, message_id, now_ms=1)
        assert not await to_device.remember_remote(connection, first, "a", now_ms=2)


async def test_records_are_forgotten_when_they_are_older(
    database: Database, table: ToDeviceTable
) -> None:
    async with database.transaction() as connection:
        for name, now_ms in (("old", 9), ("new", 10)):
            key = (ALICE, PHONE, "m.x", name)
            await to_device.remember_transaction(connection, key, now_ms=now_ms)
            await to_device.remember_remote(connection, ServerName("hs2"), name, now_ms=now_ms)
    await table.forget_transactions(before_ms=10)
    async with database.transaction() as connection:
        for name, is_new in (("old", True), ("new", False)):
            key = (ALICE, PHONE, "m.x", name)
            assert await to_device.remember_transaction(connection, key, now_ms=11) is is_new
            assert (
                await to_device.remember_remote(connection, ServerName("hs2"), name, now_ms=11)
                is is_new
            )


async def test_messages_and_requests_of_removed_devices_go(
    database: Database, table: ToDeviceTable
) -> None:
    devices = [(ALICE, PHONE), (ALICE, LAPTOP), (BOB, PHONE)]
    async with database.transaction() as connection:
        for user_id, device_id in devices:
            await to_device.append(connection, [(1, ToDeviceEntry(user_id, device_id, b""))])
            key = (user_id, device_id, "m.x", "t")
            await to_device.remember_transaction(connection, key, now_ms=1)
        await to_device.delete_devices(connection, ALICE, [PHONE])
        is_new = [
            await to_device.remember_transaction(connection, (*one, "m.x", "t"), now_ms=1)
            for one in devices
        ]
    assert is_new == [True, False, False]
    assert (await table.newest()).keys() == {(ALICE, LAPTOP), (BOB, PHONE)}
