"""Keys of devices in the database, and who sees which signatures."""

import pytest

from federation.events.ids import DeviceId, UserId
from homeserver.engine.entries import DeviceListEntry, ToDeviceEntry
from homeserver.storage.database import Database
from homeserver.storage.encryption import (
    cross_signing,
    device_lists,
    keys,
    one_time_keys,
    to_device,
)
from homeserver.storage.encryption.cross_signing import CrossSigningKey
from homeserver.storage.encryption.device_lists import DeviceListTable
from homeserver.storage.encryption.keys import DeviceKeyTable, KeySignature, StoredKeys
from homeserver.storage.encryption.one_time_keys import OneTimeKeyTable, UploadedKey
from homeserver.storage.encryption.to_device import ToDeviceTable

ALICE, BOB, CAROL = (UserId(f"@{name}:hs1") for name in ("alice", "bob", "carol"))
PHONE, LAPTOP = DeviceId("PHONE"), DeviceId("LAPTOP")
MASTER = CrossSigningKey("master", "M", b"{}")


@pytest.fixture
def table(database: Database) -> DeviceKeyTable:
    return DeviceKeyTable(database)


async def store(
    database: Database, user_id: UserId, device_id: DeviceId, encoded: bytes = b"{}"
) -> bool:
    async with database.transaction() as connection:
        return await keys.store_device_keys(connection, user_id, device_id, encoded)


def signature(
    user_id: UserId, target: str, signer: UserId, text: str = "s", key_id: str = "ed25519:K"
) -> KeySignature:
    return KeySignature(user_id, target, signer, key_id, text)


async def sign(database: Database, *made: KeySignature) -> None:
    async with database.transaction() as connection:
        await keys.store_signatures(connection, made)


async def test_the_keys_of_a_device_never_change(database: Database, table: DeviceKeyTable) -> None:
    assert await store(database, ALICE, PHONE, b"first\x00")
    assert not await store(database, ALICE, PHONE, b"second")
    assert await store(database, BOB, PHONE, b"bob")
    assert await table.load_keys_of_device(ALICE, PHONE) == b"first\x00"
    assert await table.load_keys_of_device(ALICE, LAPTOP) is None


async def test_keys_of_users_come_with_their_devices_in_order(
    database: Database, table: DeviceKeyTable
) -> None:
    for user_id, device_id in ((ALICE, PHONE), (ALICE, LAPTOP), (BOB, PHONE), (CAROL, PHONE)):
        await store(database, user_id, device_id)
    async with database.transaction() as connection:
        await cross_signing.store(connection, BOB, MASTER)
    found = await table.load_keys([BOB, ALICE, UserId("@unknown:hs1")])
    assert found == StoredKeys(
        {ALICE: {LAPTOP: b"{}", PHONE: b"{}"}, BOB: {PHONE: b"{}"}}, {BOB: {"master": MASTER}}, []
    )
    assert list(found.devices[ALICE]) == [LAPTOP, PHONE]
    assert await table.load_keys([]) == StoredKeys({}, {}, [])


async def test_a_viewer_sees_the_signatures_of_the_key_s_user_and_its_own(
    database: Database, table: DeviceKeyTable
) -> None:
    await store(database, ALICE, PHONE)
    own, by_bob, by_carol = (signature(ALICE, "M", one) for one in (ALICE, BOB, CAROL))
    of_bob = signature(BOB, "M", ALICE)
    await sign(database, own, by_bob, by_carol, of_bob)
    assert (await table.load_keys([ALICE])).signatures == [own]
    for viewer, seen in ((None, [own]), (BOB, [own, by_bob]), (ALICE, [own])):
        found = await table.load_keys([ALICE], viewer=viewer)
        assert sorted(found.signatures, key=lambda one: one.signer) == seen
        assert (
            sorted(await table.load_signatures([ALICE], viewer=viewer), key=lambda one: one.signer)
            == seen
        )
    assert (await table.load_keys([BOB], viewer=ALICE)).signatures == [], "Bob has no keys here"
    assert await table.load_signatures([BOB], viewer=ALICE) == [of_bob]


async def test_a_newer_signature_by_the_same_key_replaces_the_older(
    database: Database, table: DeviceKeyTable
) -> None:
    await sign(database)
    await sign(database, signature(ALICE, "M", ALICE, "1"), signature(ALICE, "M", ALICE, "2"))
    await sign(database, signature(ALICE, "M", ALICE, "other", "ed25519:L"))
    await sign(database, signature(ALICE, "M", ALICE, "3"))
    found = await table.load_signatures([ALICE], viewer=None)
    assert sorted(one.signature for one in found) == ["3", "other"]


async def test_the_users_whose_keys_a_user_signed_are_found(
    database: Database, table: DeviceKeyTable
) -> None:
    await sign(
        database,
        signature(ALICE, "M", ALICE),
        signature(BOB, "M", ALICE),
        signature(BOB, "N", ALICE),
        signature(CAROL, "M", BOB),
    )
    assert await table.load_verified(ALICE) == {BOB}
    assert await table.load_verified(CAROL) == set()


async def test_a_list_is_that_of_its_stream_id(database: Database, table: DeviceKeyTable) -> None:
    assert await table.load_list(ALICE) == (0, StoredKeys({}, {}, []))
    await store(database, ALICE, PHONE)
    await store(database, BOB, PHONE)
    async with database.transaction() as connection:
        await device_lists.append(connection, [(1, DeviceListEntry(ALICE))])
    (change,) = await DeviceListTable(database).load_changes([1])
    expected = StoredKeys({ALICE: {PHONE: b"{}"}}, {}, [])
    assert await table.load_list(ALICE) == (change.stream_id, expected)


async def test_the_data_of_removed_devices_goes_and_other_devices_keep_theirs(
    database: Database, table: DeviceKeyTable
) -> None:
    devices = [(ALICE, PHONE), (ALICE, LAPTOP), (BOB, PHONE)]
    async with database.transaction() as connection:
        for position, (user_id, device_id) in enumerate(devices):
            await keys.store_device_keys(connection, user_id, device_id, b"{}")
            one = UploadedKey("curve25519", "A", b'"key"')
            await one_time_keys.store(connection, user_id, device_id, [one])
            message = ToDeviceEntry(user_id, device_id, b"{}")
            await to_device.append(connection, [(position, message)])
            await keys.store_signatures(connection, [signature(user_id, device_id, user_id)])
        await keys.forget_devices(connection, ALICE, [PHONE, DeviceId("UNKNOWN")])
        await device_lists.append(connection, [(9, DeviceListEntry(ALICE))])
    kept = set(devices) - {(ALICE, PHONE)}
    found = await table.load_keys([ALICE, BOB])
    assert {(user, device) for user, of in found.devices.items() for device in of} == kept
    assert {(one.user_id, one.target) for one in found.signatures} == kept
    assert (await ToDeviceTable(database).newest()).keys() == kept
    one_time = OneTimeKeyTable(database)
    assert {one for one in devices if (await one_time.counts(*one)).one_time} == kept
    (change,) = await DeviceListTable(database).load_changes([9])
    assert sorted(change.devices) == [PHONE, "UNKNOWN"]
