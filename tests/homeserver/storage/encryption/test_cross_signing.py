"""Cross-signing keys in the database, and the signatures that go with a replaced one."""

import pytest

from federation.events.ids import UserId
from homeserver.storage.database import Database
from homeserver.storage.encryption import cross_signing, keys
from homeserver.storage.encryption.cross_signing import CrossSigningKey, CrossSigningKeyTable
from homeserver.storage.encryption.keys import DeviceKeyTable, KeySignature

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
MASTER = CrossSigningKey("master", "M", b'{"m":"\\u0000"}')
SIGNING = CrossSigningKey("self_signing", "S", b"{}")


@pytest.fixture
def table(database: Database) -> CrossSigningKeyTable:
    return CrossSigningKeyTable(database)


async def store(database: Database, user_id: UserId, *stored: CrossSigningKey) -> None:
    async with database.transaction() as connection:
        for key in stored:
            await cross_signing.store(connection, user_id, key)


async def test_a_user_has_one_key_of_each_usage(
    database: Database, table: CrossSigningKeyTable
) -> None:
    await store(database, ALICE, MASTER, SIGNING)
    assert await table.load(ALICE) == {"master": MASTER, "self_signing": SIGNING}
    assert await table.load(BOB) == {}
    other = CrossSigningKey("master", "M2", b"2")
    await store(database, ALICE, other)
    assert await table.load(ALICE) == {"master": other, "self_signing": SIGNING}
    await store(database, BOB, MASTER)
    async with database.transaction() as connection:
        assert await cross_signing.load(connection, [ALICE, BOB]) == {
            ALICE: {"master": other, "self_signing": SIGNING},
            BOB: {"master": MASTER},
        }


async def test_named_usages_of_one_user_are_deleted(
    database: Database, table: CrossSigningKeyTable
) -> None:
    for user_id in (ALICE, BOB):
        await store(database, user_id, MASTER, SIGNING)
    async with database.transaction() as connection:
        await cross_signing.delete(connection, ALICE, [])
        await cross_signing.delete(connection, ALICE, ["self_signing", "user_signing"])
    assert await table.load(ALICE) == {"master": MASTER}
    assert await table.load(BOB) == {"master": MASTER, "self_signing": SIGNING}


async def test_signatures_go_with_the_key_that_another_one_replaces(database: Database) -> None:
    made = [
        KeySignature(user_id, target, BOB, "ed25519:B", "signature")
        for user_id, target in ((ALICE, "M"), (ALICE, "DEVICE"), (BOB, "M"))
    ]
    for user_id in (ALICE, BOB):
        await store(database, user_id, MASTER)
    async with database.transaction() as connection:
        await keys.store_signatures(connection, made)
    signatures = DeviceKeyTable(database)
    await store(database, ALICE, MASTER, SIGNING)
    assert len(await signatures.load_signatures([ALICE, BOB], viewer=BOB)) == 3, "the same keys"
    await store(database, ALICE, CrossSigningKey("master", "M2", b"2"))
    kept = await signatures.load_signatures([ALICE, BOB], viewer=BOB)
    assert sorted(kept, key=lambda one: one.user_id) == made[1:]
