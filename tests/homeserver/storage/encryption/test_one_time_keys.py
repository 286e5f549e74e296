"""One-time keys in the database: each is handed out once, and then the fallback key."""

import asyncio

import pytest

from federation.events.ids import DeviceId, UserId
from homeserver.storage.database import Database, DataRefused
from homeserver.storage.encryption import one_time_keys
from homeserver.storage.encryption.one_time_keys import (
    Claim,
    KeyCounts,
    OneTimeKeyTable,
    UploadedKey,
    key_digest,
)
from tests.homeserver.storage.conftest import with_settings
from tests.homeserver.storage.lock_waits import waits_for_lock

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
PHONE, LAPTOP = DeviceId("PHONE"), DeviceId("LAPTOP")
SIGNED, PLAIN = "signed_curve25519", "curve25519"
CLAIM = Claim(ALICE, PHONE, SIGNED)


@pytest.fixture
def table(database: Database) -> OneTimeKeyTable:
    return OneTimeKeyTable(database)


def key(name: str, algorithm: str = SIGNED, value: bytes = b"") -> UploadedKey:
    return UploadedKey(algorithm, name, value or b'"%s"' % name.encode())


async def store(
    database: Database, *uploaded: UploadedKey, user_id: UserId = ALICE, device: DeviceId = PHONE
) -> None:
    async with database.transaction() as connection:
        await one_time_keys.store(connection, user_id, device, uploaded)


async def store_fallback(database: Database, *uploaded: UploadedKey) -> None:
    async with database.transaction() as connection:
        await one_time_keys.store_fallback(connection, ALICE, PHONE, uploaded)


async def same(database: Database, *uploaded: UploadedKey) -> dict[tuple[str, str], bytes]:
    async with database.transaction() as connection:
        return await one_time_keys.load_same(connection, ALICE, PHONE, uploaded)


async def test_keys_are_claimed_once_in_the_order_of_their_upload(
    database: Database, table: OneTimeKeyTable
) -> None:
    await store(database, key("Z"), key("M"))
    await store(database, key("A"), key("P", PLAIN))
    await store(database, key("B"), user_id=BOB)
    await store(database, key("L"), device=LAPTOP)
    claimed = [await table.claim([CLAIM, CLAIM]) for _ in range(4)]
    assert claimed == [{CLAIM: key("Z")}, {CLAIM: key("M")}, {CLAIM: key("A")}, {}]
    assert await table.counts(ALICE, PHONE) == KeyCounts({PLAIN: 1}, ())
    wanted = [Claim(BOB, PHONE, SIGNED), Claim(ALICE, LAPTOP, SIGNED), Claim(BOB, LAPTOP, SIGNED)]
    assert await table.claim(wanted) == {wanted[0]: key("B"), wanted[1]: key("L")}
    assert await table.claim([]) == {}


async def test_concurrent_claims_get_different_keys(
    database: Database, table: OneTimeKeyTable
) -> None:
    await store(database, *(key(str(number)) for number in range(5)))
    await store(database, *(key(str(number)) for number in range(5)), device=LAPTOP)
    claims = [CLAIM, Claim(ALICE, LAPTOP, SIGNED)]
    found = await asyncio.gather(*(table.claim(claims[::step]) for step in (1, -1, 1, -1, 1)))
    for claim in claims:
        assert sorted(one[claim].key_id for one in found) == ["0", "1", "2", "3", "4"]


async def test_a_key_that_is_being_handed_out_is_passed_over(
    database: Database, table: OneTimeKeyTable
) -> None:
    await store(database, key("A"), key("B"))
    async with database.transaction() as other:
        await other.execute("SELECT FROM one_time_keys WHERE key_id = 'A' FOR UPDATE")
        claiming = asyncio.create_task(table.claim([CLAIM]))
        assert not await waits_for_lock(database, claiming)
        assert await claiming == {CLAIM: key("B")}


async def test_one_key_is_taken_whatever_plan_the_database_makes(database: Database) -> None:
    """A plan depends on statistics, which are there or not. Seen to fail when the key was chosen by
    a subquery: nested loops chose one for each row, and all were deleted."""
    await store(database, *(key(str(number)) for number in range(9)))
    names = ("hashjoin", "mergejoin", "hashagg", "sort", "material", "memoize")
    settings = "&".join(f"enable_{name}=off" for name in names)
    planned = await Database.open(with_settings(database.url, settings), connections=1)
    assert await planned.fetchval("SHOW enable_memoize") == "off"
    assert len(await OneTimeKeyTable(planned).claim([CLAIM])) == 1
    await planned.close()
    assert (await OneTimeKeyTable(database).counts(ALICE, PHONE)).one_time == {SIGNED: 8}


async def test_a_key_is_known_by_its_digest_before_and_after_its_claim(
    database: Database, table: OneTimeKeyTable
) -> None:
    signed = key("A", value=b'{"key":"k","signatures":{"@a:b":{"c":"1"}}}')
    renewed = b'{"signatures":{"@a:b":{"c":"2"}},"unsigned":{},"key":"k"}'
    await store(database, signed, key("B"))
    expected = {(SIGNED, "A"): key_digest(renewed), (SIGNED, "B"): key_digest(b'"B"')}
    assert key_digest(b'{"key":"l"}') != key_digest(renewed)
    wanted = [signed, key("B"), key("C"), key("A", PLAIN)]
    assert await same(database, *wanted) == expected
    assert await table.claim([CLAIM]) == {CLAIM: signed}
    assert await same(database, *wanted) == expected
    assert await same(database) == {}


async def test_a_known_id_is_not_stored_twice(database: Database) -> None:
    await store(database, key("A"))
    with pytest.raises(DataRefused):
        await store(database, key("A"))


async def test_a_fallback_key_is_handed_out_when_no_other_is_left(
    database: Database, table: OneTimeKeyTable
) -> None:
    await store(database, key("A"))
    await store_fallback(database, key("F"), key("P", PLAIN))
    assert (await table.counts(ALICE, PHONE)).unused_fallback == (PLAIN, SIGNED)
    assert await table.claim([CLAIM], fallback_only=True) == {CLAIM: key("F")}
    assert await table.counts(ALICE, PHONE) == KeyCounts({SIGNED: 1}, (PLAIN,))
    assert await table.claim([CLAIM]) == {CLAIM: key("A")}
    for _ in range(2):
        assert await table.claim([CLAIM]) == {CLAIM: key("F")}
    assert await same(database, key("F")) == {}, "a fallback key is not a one-time key"


async def test_only_another_fallback_key_is_unused(
    database: Database, table: OneTimeKeyTable
) -> None:
    await store_fallback(database, key("F"))
    await table.claim([CLAIM])
    await store_fallback(database, key("F"))
    assert (await table.counts(ALICE, PHONE)).unused_fallback == ()
    await store_fallback(database, key("G"))
    assert (await table.counts(ALICE, PHONE)).unused_fallback == (SIGNED,)
    assert await table.claim([CLAIM]) == {CLAIM: key("G")}


async def test_keys_are_counted_in_the_transaction_for_one_device(database: Database) -> None:
    await store(database, key("B"), user_id=BOB)
    await store(database, key("L"), device=LAPTOP)
    async with database.transaction() as connection:
        await one_time_keys.store(connection, ALICE, PHONE, [key("A"), key("P", PLAIN)])
        await one_time_keys.store(connection, ALICE, PHONE, [])
        assert await one_time_keys.count(connection, ALICE, PHONE) == 2
        assert await one_time_keys.count(connection, BOB, LAPTOP) == 0


async def test_a_new_device_of_the_same_name_may_use_all_ids_again(
    database: Database, table: OneTimeKeyTable
) -> None:
    for device in (PHONE, LAPTOP):
        await store(database, key("A"), key("B"), device=device)
        await table.claim([Claim(ALICE, device, SIGNED)])
    await store_fallback(database, key("F"))
    async with database.transaction() as connection:
        await one_time_keys.delete_devices(connection, ALICE, [PHONE])
    assert await table.claim([CLAIM]) == {}
    assert await same(database, key("A"), key("B")) == {}
    assert (await table.counts(ALICE, LAPTOP)).one_time == {SIGNED: 1}
    await store(database, key("A"), key("B"))


async def test_uploads_of_one_device_wait_for_each_other(database: Database) -> None:
    async def lock(user_id: UserId, device_id: DeviceId) -> None:
        async with database.transaction() as connection:
            await one_time_keys.lock(connection, user_id, device_id)

    async with database.transaction() as first:
        await one_time_keys.lock(first, ALICE, PHONE)
        await lock(ALICE, LAPTOP)
        await lock(BOB, PHONE)
        second = asyncio.create_task(lock(ALICE, PHONE))
        assert await waits_for_lock(database, second)
    await second
