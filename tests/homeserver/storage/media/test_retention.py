"""Rows that are let go, and those that stay."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from homeserver import limits
from homeserver.rules.media.mxc import Mxc
from homeserver.storage.media.quarantine import QuarantineTable
from homeserver.storage.media.retention import MediaClass, RetentionTable
from tests.homeserver.media_world import ALICE, BOB, HERE, MediaWorld

LOCAL, REMOTE = MediaClass(HERE, is_local=True), MediaClass(HERE, is_local=False)


@pytest.fixture
def table(world: MediaWorld) -> RetentionTable:
    return RetentionTable(world.database)


async def left(world: MediaWorld) -> set[str]:
    return {row[0] for row in await world.database.fetch("SELECT media_id FROM media")}


async def accessed(world: MediaWorld, mxcs: Sequence[Mxc]) -> None:
    """Each was read later than the one before."""
    for at_ms, mxc in enumerate(mxcs):
        await world.database.execute(
            "UPDATE media SET last_access_ms = $1 WHERE media_id = $2", at_ms, mxc.media_id
        )


async def test_old_and_unused_media_go_by_class(world: MediaWorld, table: RetentionTable) -> None:
    created_ms = world.clock.now_ms()
    local = await world.upload(b"1")
    remote = await world.keep_remote("far", b"2")

    async def delete(which: MediaClass, *, created: int = 0, unused: int = 0) -> int:
        return await table.delete_old(which, created_before_ms=created, unused_since_ms=unused)

    assert await delete(LOCAL, created=created_ms, unused=created_ms) == 0
    assert await delete(REMOTE, created=created_ms + 1) == 1
    assert await left(world) == {local.media_id}
    remote = await world.keep_remote("far", b"2")
    assert await delete(LOCAL, unused=created_ms + 1) == 1
    assert await left(world) == {remote.media_id}


async def test_quarantined_media_and_ids_without_content_stay(
    world: MediaWorld, table: RetentionTable
) -> None:
    far = await world.keep_remote("far", b"bad")
    await QuarantineTable(world.database).add(far)
    await world.uploads.reserve(ALICE)
    for which in (LOCAL, REMOTE):
        assert not await table.delete_old(which, created_before_ms=2**62, unused_since_ms=2**62)
        assert await table.total_bytes(which) == 0
        assert await table.delete_excess(which, 100) == 0
    assert len(await left(world)) == 2


async def test_excess_goes_from_what_was_not_read_for_longest(
    world: MediaWorld, table: RetentionTable
) -> None:
    mxcs = [await world.keep_remote(f"m{number}", bytes(10)) for number in range(4)]
    empty = await world.keep_remote("empty", b"")
    await accessed(world, [*reversed(mxcs), empty])
    local = await world.upload(bytes(100))
    assert await table.total_bytes(REMOTE) == 40
    assert await table.delete_excess(REMOTE, 11) == 20
    assert await left(world) == {"m0", "m1", "empty", local.media_id}
    assert await table.delete_excess(REMOTE, 10) == 10
    assert await left(world) == {"m0", "empty", local.media_id}


async def test_a_round_of_deletions_is_bounded(
    world: MediaWorld, table: RetentionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_DELETED_AT_ONCE", 2)
    for number in range(5):
        await world.keep_remote(f"m{number}", bytes(10))
    assert await table.delete_excess(REMOTE, 50) == 20
    assert await table.delete_old(REMOTE, created_before_ms=2**62, unused_since_ms=0) == 2
    assert len(await left(world)) == 1


async def test_ids_end_with_their_time(world: MediaWorld, table: RetentionTable) -> None:
    reserved = await world.uploads.reserve(ALICE)
    await world.upload()
    assert await table.delete_expired(now_ms=reserved.expires_ms - 1) == 0
    assert await table.delete_expired(now_ms=reserved.expires_ms) == 1
    assert len(await left(world)) == 1


async def test_uploads_of_erased_users_go(
    world: MediaWorld, table: RetentionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_DELETED_AT_ONCE", 2)
    for number in range(3):
        await world.upload(bytes([number]))
    kept = await world.upload(b"\0", by=BOB)
    await world.database.execute(
        "INSERT INTO accounts (user_id, is_guest, created_ms, is_deactivated, erased_at)"
        " VALUES ($1, false, 1, true, 7), ($2, false, 1, true, NULL)",
        ALICE,
        BOB,
    )
    assert [await table.delete_erased() for _ in range(3)] == [2, 1, 0]
    assert await left(world) == {kept.media_id}
    assert await world.counts() == [0, 0, 1]
