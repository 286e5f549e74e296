"""Device lists of remote users in the database, and the fetches that are due."""

import pytest

from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.encryption import remote_devices
from homeserver.storage.encryption.remote_devices import (
    RemoteDevice,
    RemoteDeviceTable,
    RemoteList,
    Resync,
)

ALICE, BOB, CAROL = (UserId(f"@{name}:hs2") for name in ("alice", "bob", "carol"))
A, B, C = (RemoteDevice(DeviceId(name), b'"\\u0000"', f"name {name}") for name in "ABC")
NAMELESS = RemoteDevice(DeviceId("N"), None)
FIRST_RETRY_MS = limits.RESYNC_RETRY_MS_MIN


@pytest.fixture
def table(database: Database) -> RemoteDeviceTable:
    return RemoteDeviceTable(database)


def listed(
    *devices: RemoteDevice, master: bytes | None = None, signing: bytes | None = None
) -> RemoteList:
    return RemoteList({one.device_id: one for one in devices}, master, signing)


async def replace(
    database: Database, user_id: UserId, fetched: RemoteList, stream_id: int = 1
) -> None:
    async with database.transaction() as connection:
        await remote_devices.replace(connection, user_id, stream_id, fetched)


async def seen(database: Database, user_id: UserId) -> list[int] | None:
    async with database.transaction() as connection:
        return await remote_devices.seen(connection, user_id)


async def due(table: RemoteDeviceTable, now_ms: int, limit: int = 9) -> list[UserId]:
    found, _ = await table.due_resyncs(now_ms=now_ms, limit=limit)
    return [resync.user_id for resync in found]


async def test_a_fetched_list_takes_the_place_of_the_former(
    database: Database, table: RemoteDeviceTable
) -> None:
    await replace(database, BOB, listed(A))
    await replace(database, ALICE, listed(A, NAMELESS, master=b"M", signing=b"S"))
    assert await table.load([ALICE]) == {ALICE: listed(A, NAMELESS, master=b"M", signing=b"S")}
    await replace(database, ALICE, listed(B), stream_id=5)
    assert await table.load([ALICE, BOB, CAROL]) == {ALICE: listed(B), BOB: listed(A)}
    assert [await seen(database, user_id) for user_id in (ALICE, BOB, CAROL)] == [[5], [1], None]
    assert await table.load([]) == {}


async def test_a_user_without_devices_has_a_list_too(
    database: Database, table: RemoteDeviceTable
) -> None:
    await replace(database, ALICE, listed())
    assert await table.load([ALICE]) == {ALICE: listed()}
    assert [await table.is_kept(user_id) for user_id in (ALICE, BOB)] == [True, False]
    assert await table.load_kept() == {ALICE}


async def test_an_update_changes_one_device(database: Database, table: RemoteDeviceTable) -> None:
    for user_id in (ALICE, BOB):
        await replace(database, user_id, listed(A, B))
    changed = RemoteDevice(A.device_id, b"new", None)
    async with database.transaction() as connection:
        await remote_devices.apply_update(connection, ALICE, 2, changed)
        await remote_devices.apply_update(connection, ALICE, -3, B.device_id)
        await remote_devices.apply_update(connection, ALICE, 4, C)
        await remote_devices.apply_update(connection, ALICE, 5, DeviceId("UNKNOWN"))
        counts = [
            await remote_devices.count_devices(connection, one) for one in (ALICE, BOB, CAROL)
        ]
    assert counts == [2, 2, 0]
    assert await table.load([ALICE, BOB]) == {ALICE: listed(changed, C), BOB: listed(A, B)}
    assert await seen(database, ALICE) == [1, 2, -3, 4, 5]
    assert await seen(database, BOB) == [1]


async def test_the_newest_stream_ids_are_kept_within_a_bound(database: Database) -> None:
    await replace(database, ALICE, listed())
    async with database.transaction() as connection:
        for stream_id in range(2, 41):
            await remote_devices.apply_update(connection, ALICE, stream_id, A.device_id)
            found = await remote_devices.seen(connection, ALICE)
            assert found == list(range(max(1, stream_id - 31), stream_id + 1))


async def test_given_cross_signing_keys_are_set_and_others_stay(
    database: Database, table: RemoteDeviceTable
) -> None:
    for user_id in (ALICE, BOB):
        await replace(database, user_id, listed(master=b"M", signing=b"S"))
    async with database.transaction() as connection:
        await remote_devices.set_cross_signing(
            connection, ALICE, master_key=b"M2", self_signing_key=None
        )
        assert await remote_devices.load(connection, [ALICE]) == {
            ALICE: listed(master=b"M2", signing=b"S")
        }
        await remote_devices.set_cross_signing(
            connection, ALICE, master_key=None, self_signing_key=b"S2"
        )
    assert await table.load([ALICE, BOB]) == {
        ALICE: listed(master=b"M2", signing=b"S2"),
        BOB: listed(master=b"M", signing=b"S"),
    }


async def test_a_list_goes_with_its_due_fetch(database: Database, table: RemoteDeviceTable) -> None:
    for user_id in (ALICE, BOB, CAROL):
        await replace(database, user_id, listed(A))
    await table.mark_resyncs([ALICE, BOB], retry_at_ms=0)
    await table.forget([ALICE, CAROL])
    assert await table.load([ALICE, BOB, CAROL]) == {BOB: listed(A)}
    assert await due(table, 0) == [BOB]
    async with database.transaction() as connection:
        assert await remote_devices.count_devices(connection, CAROL) == 0
        assert await remote_devices.count_devices(connection, BOB) == 1


async def test_lists_come_with_the_users_to_fetch_again(
    database: Database, table: RemoteDeviceTable
) -> None:
    for user_id in (ALICE, BOB):
        await replace(database, user_id, listed())
    await table.mark_resyncs([BOB, CAROL], retry_at_ms=9)
    assert await table.load_with_pending([ALICE, BOB, CAROL]) == (
        {ALICE: listed(), BOB: listed()},
        {BOB},
    )
    async with database.transaction() as connection:
        assert await remote_devices.pending_resyncs(connection, [ALICE, CAROL]) == {CAROL}
        await remote_devices.finish_resync(connection, BOB)
        await remote_devices.finish_resync(connection, ALICE)
    assert await table.load_with_pending([BOB]) == ({BOB: listed()}, set())
    assert await due(table, 9) == [CAROL]


async def test_due_fetches_come_oldest_first_and_the_next_one_s_time_if_none_is_due(
    table: RemoteDeviceTable,
) -> None:
    assert await table.due_resyncs(now_ms=0, limit=9) == ([], None)
    for user_id, retry_at_ms in ((ALICE, 30), (BOB, 10), (CAROL, 20)):
        await table.mark_resyncs([user_id], retry_at_ms=retry_at_ms)
    assert await table.due_resyncs(now_ms=9, limit=9) == ([], 10)
    assert await table.due_resyncs(now_ms=20, limit=9) == (
        [Resync(BOB, 0, 10), Resync(CAROL, 0, 20)],
        None,
    )
    assert await due(table, 30, limit=2) == [BOB, CAROL]


async def test_a_fetch_is_due_at_the_earliest_time_that_was_asked_for(
    table: RemoteDeviceTable,
) -> None:
    for retry_at_ms in (20, 10, 15):
        await table.mark_resyncs([ALICE, ALICE], retry_at_ms=retry_at_ms)
    assert await table.due_resyncs(now_ms=0, limit=9) == ([], 10)


async def test_a_postponed_fetch_waits_with_its_attempts(table: RemoteDeviceTable) -> None:
    await table.mark_resyncs([ALICE, BOB], retry_at_ms=0)
    await table.postpone_resync(ALICE, attempts=1, retry_at_ms=FIRST_RETRY_MS)
    await table.postpone_resync(CAROL, attempts=1, retry_at_ms=0)
    assert await due(table, 0) == [BOB]
    found, _ = await table.due_resyncs(now_ms=FIRST_RETRY_MS, limit=9)
    assert found == [Resync(BOB, 0, 0), Resync(ALICE, 1, FIRST_RETRY_MS)]


@pytest.mark.parametrize(
    ("attempts", "most_ms"),
    [
        (0, limits.RESYNC_RETRY_MS_MIN),
        (1, limits.RESYNC_RETRY_MS_MIN),
        (2, 2 * limits.RESYNC_RETRY_MS_MIN),
        (99, limits.RESYNC_RETRY_MS_MAX),
    ],
)
async def test_a_wait_that_is_longer_than_it_can_be_is_over(
    table: RemoteDeviceTable, attempts: int, most_ms: int
) -> None:
    """The clock was set back since."""
    now_ms = 1_000
    await table.mark_resyncs([ALICE], retry_at_ms=0)
    for wait_ms, is_due in ((most_ms, False), (most_ms + 1, True)):
        await table.postpone_resync(ALICE, attempts=attempts, retry_at_ms=now_ms + wait_ms)
        assert await due(table, now_ms) == [ALICE] * is_due
