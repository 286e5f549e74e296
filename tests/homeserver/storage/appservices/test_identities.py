"""The accounts and devices that application services act as."""

from __future__ import annotations

from federation.events.ids import DeviceId, UserId
from homeserver.storage.appservices.identities import Identity, IdentityTable
from homeserver.storage.database import Database

ANN = UserId("@_irc_ann:hs1")


async def test_active_accounts_and_their_devices_are_found(database: Database) -> None:
    table = IdentityTable(database)
    assert await table.load(ANN, None) is None
    await database.execute(
        "INSERT INTO accounts (user_id, is_guest, created_ms) VALUES ($1, false, 1)", ANN
    )
    await database.execute(
        "INSERT INTO devices (user_id, device_id, created_ms, last_seen_ms, last_seen_address)"
        " VALUES ($1, 'D', 1, 1, '')",
        ANN,
    )
    assert await table.load(ANN, None) == Identity(False, False, False, False)
    assert await table.load(ANN, DeviceId("E")) == Identity(False, False, False, False)
    await database.execute("UPDATE accounts SET is_locked = true, is_suspended = true")
    assert await table.load(ANN, DeviceId("D")) == Identity(False, True, True, True)
    await database.execute("UPDATE accounts SET is_deactivated = true")
    assert await table.load(ANN, DeviceId("D")) is None


async def test_nobody_acts_as_a_dehydrated_device(database: Database) -> None:
    await database.execute(
        "INSERT INTO accounts (user_id, is_guest, created_ms) VALUES ($1, false, 1)", ANN
    )
    await database.execute(
        "INSERT INTO devices (user_id, device_id, created_ms, last_seen_ms, last_seen_address,"
        " dehydrated) VALUES ($1, 'D', 1, 1, '', '{}')",
        ANN,
    )
    found = await IdentityTable(database).load(ANN, DeviceId("D"))
    assert found == Identity(False, False, False, False)
