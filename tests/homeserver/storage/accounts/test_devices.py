"""Devices in the database: names, when they were seen, and the end of their tokens."""

import pytest

from federation.events.ids import DeviceId, UserId
from homeserver.storage.accounts import devices
from homeserver.storage.accounts.devices import DehydratedRow, DeviceRow, DeviceTable
from homeserver.storage.database import Database, DataRefused
from tests.homeserver.storage.accounts.account_rows import (
    ALICE,
    BOB,
    CAROL,
    LAPTOP,
    PHONE,
    TABLET,
    create_accounts,
)


@pytest.fixture
async def table(database: Database) -> DeviceTable:
    """Return the table with Alice's three devices, and Bob's one of the same name as Alice's."""
    await create_accounts(database, ALICE, BOB)
    for device_id, name in ((TABLET, "a tablet"), (LAPTOP, None)):
        await database.execute(
            "INSERT INTO devices VALUES ($1, $2, $3, 1, 2, '::2')", ALICE, device_id, name
        )
        await database.execute(
            "INSERT INTO access_tokens (hash, user_id, device_id) VALUES ($1, $2, $3)",
            device_id.encode(),
            ALICE,
            device_id,
        )
    return DeviceTable(database)


async def remaining(database: Database) -> list[tuple[str, str]]:
    """Return the devices; each must have its token."""
    found = [
        [(row[0], row[1]) for row in await database.fetch(f"SELECT user_id, device_id FROM {name}")]
        for name in ("devices", "access_tokens")
    ]
    assert sorted(found[0]) == sorted(found[1])
    return sorted(found[0])


async def test_devices_of_a_user_come_in_order(table: DeviceTable) -> None:
    assert await table.load_all(ALICE) == [
        DeviceRow(LAPTOP, None, 2, "::2"),
        DeviceRow(PHONE, "a phone", 5, "::1"),
        DeviceRow(TABLET, "a tablet", 2, "::2"),
    ]
    assert await table.load(ALICE, TABLET) == DeviceRow(TABLET, "a tablet", 2, "::2")
    assert await table.load(BOB, TABLET) is None
    assert await table.load_all(CAROL) == []


async def test_names_are_found_for_many_users(table: DeviceTable) -> None:
    assert await table.load_names([ALICE, BOB, CAROL]) == {
        ALICE: {PHONE: "a phone", LAPTOP: None, TABLET: "a tablet"},
        BOB: {PHONE: "a phone"},
    }
    assert await table.load_names([]) == {}


async def test_a_device_is_renamed_for_its_user_alone(
    database: Database, table: DeviceTable
) -> None:
    async with database.transaction() as connection:
        assert await devices.rename(connection, ALICE, PHONE, "ü\x1b")
        assert not await devices.rename(connection, BOB, LAPTOP, "stolen")
    names = await table.load_names([ALICE, BOB])
    assert (names[ALICE][PHONE], names[BOB]) == ("ü\x1b", {PHONE: "a phone"})


async def test_where_devices_were_seen_is_noted_for_those_that_exist(table: DeviceTable) -> None:
    await table.note_seen(
        [(ALICE, LAPTOP, 9, "::9"), (BOB, LAPTOP, 9, "::9"), (CAROL, PHONE, 9, "::9")]
    )
    assert await table.load(ALICE, LAPTOP) == DeviceRow(LAPTOP, None, 9, "::9")
    assert await table.load(ALICE, PHONE) == DeviceRow(PHONE, "a phone", 5, "::1")
    assert await table.load_all(CAROL) == []
    seen: list[tuple[UserId, str]] = [(ALICE, "::9"), (ALICE, "::2"), (BOB, "::9"), (BOB, "::2")]
    assert [await table.is_seen_at(*one) for one in seen] == [True, True, False, False]


@pytest.mark.parametrize(
    ("device_ids", "spare", "gone"),
    [
        ([TABLET, LAPTOP], None, [LAPTOP, TABLET]),
        ([PHONE, DeviceId("UNKNOWN")], None, [PHONE]),
        ([], None, []),
        (None, None, [LAPTOP, PHONE, TABLET]),
        (None, PHONE, [LAPTOP, TABLET]),
        ([PHONE, LAPTOP], PHONE, [LAPTOP]),
    ],
)
async def test_devices_go_with_their_tokens_and_others_stay(
    database: Database,
    table: DeviceTable,
    device_ids: list[DeviceId] | None,
    spare: DeviceId | None,
    gone: list[DeviceId],
) -> None:
    async with database.transaction() as connection:
        assert await devices.delete(connection, ALICE, device_ids, spare=spare) == gone
    kept = {one.device_id for one in await table.load_all(ALICE)}
    assert kept == {PHONE, LAPTOP, TABLET} - set(gone)
    assert await remaining(database) == sorted([*((ALICE, one) for one in kept), (BOB, PHONE)])


async def dehydrate(
    database: Database, user_id: UserId, device_id: DeviceId, data: bytes = b"{}", name: str = "dry"
) -> bool:
    """Store a dehydrated device."""
    async with database.transaction() as connection:
        return await devices.dehydrate(
            connection, user_id, device_id, display_name=name, data=data, now_ms=9
        )


async def test_a_user_has_one_dehydrated_device(table: DeviceTable, database: Database) -> None:
    dry = DeviceId("DRY")
    assert await table.load_dehydrated(ALICE) is None
    assert await dehydrate(database, ALICE, dry)
    assert await dehydrate(database, ALICE, dry, b"[]", "drier")
    assert await table.load_dehydrated(ALICE) == DehydratedRow(dry, b"[]")
    assert await table.load(ALICE, dry) == DeviceRow(dry, "drier", 9, "")
    with pytest.raises(DataRefused):
        await dehydrate(database, ALICE, DeviceId("SECOND"))


async def test_none_takes_an_ordinary_devices_place_or_is_of_nobody(
    table: DeviceTable, database: Database
) -> None:
    assert not await dehydrate(database, ALICE, LAPTOP)
    assert not await dehydrate(database, CAROL, LAPTOP)
    await database.execute("UPDATE accounts SET is_deactivated = true WHERE user_id = $1", BOB)
    assert not await dehydrate(database, BOB, DeviceId("DRY"))
    assert await table.load_dehydrated(ALICE) is None


async def test_a_dehydrated_device_is_no_surplus_and_can_be_spared(
    table: DeviceTable, database: Database
) -> None:
    dry = DeviceId("DRY")
    await dehydrate(database, ALICE, dry)
    assert set(await table.load_surplus(ALICE, 0)) == {LAPTOP, PHONE, TABLET}
    async with database.transaction() as connection:
        ended = await devices.delete(connection, ALICE, None, spare=PHONE, keeps_dehydrated=True)
    assert ended == [LAPTOP, TABLET]
    async with database.transaction() as connection:
        assert await devices.delete(connection, ALICE, None) == [dry, PHONE]
