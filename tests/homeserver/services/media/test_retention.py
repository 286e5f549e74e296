"""The background job: what each setting lets go, and that it goes on after a failure."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from homeserver import limits
from homeserver.config_media import RetentionSettings, RetentionTables
from homeserver.services.media.retention import Retention
from homeserver.storage.database import Database, DatabaseUnavailable
from tests.homeserver.media_world import ALICE, BOB, HERE, HOUR_MS, MediaWorld

DAY_MS = 24 * HOUR_MS
NEVER = RetentionSettings()


def retention(
    world: MediaWorld, local: RetentionSettings = NEVER, remote: RetentionSettings = NEVER
) -> Retention:
    tables = RetentionTables(local=local, remote=remote)
    return Retention(world.database, world.contents, HERE, tables, world.clock)


async def left(world: MediaWorld) -> list[str]:
    rows = await world.database.fetch("SELECT origin FROM media ORDER BY origin")
    return [row[0] for row in rows]


async def test_nothing_goes_by_default_but_what_others_can_send_again(world: MediaWorld) -> None:
    await world.upload()
    await world.keep_remote("far")
    tables = RetentionTables()
    assert tables.local == NEVER
    assert tables.remote.unused_days == limits.MEDIA_REMOTE_UNUSED_DAYS_DEFAULT
    assert tables.remote.total_bytes == limits.MEDIA_REMOTE_BYTES_DEFAULT
    job = Retention(world.database, world.contents, HERE, tables, world.clock)
    world.clock.at_ms += tables.remote.unused_days * DAY_MS
    await job.round()
    assert await left(world) == ["hs1", "hs2"]
    world.clock.at_ms += 1
    await job.round()
    assert await left(world) == ["hs1"]


@pytest.mark.parametrize("days", [{"age_days": 2}, {"unused_days": 2}])
async def test_media_go_by_age_and_by_use(world: MediaWorld, days: dict[str, int]) -> None:
    settings = RetentionSettings(**days)
    mxc = await world.upload()
    job = retention(world, local=settings)
    world.clock.at_ms += 2 * DAY_MS
    await job.round()
    assert await world.read(mxc) == b"content"
    world.clock.at_ms += 1
    await job.round()
    assert (await left(world) == ["hs1"]) == ("unused_days" in days), "it was read just now"
    world.clock.at_ms += 2 * DAY_MS
    await job.round()
    assert await left(world) == []
    assert world.files == []


async def test_media_go_by_size_until_they_fit(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_DELETED_AT_ONCE", 2)
    for number in range(8):
        await world.keep_remote(f"m{number}", bytes([number]) * 10)
        world.clock.at_ms += 1
    await world.upload(bytes(1000))
    job = retention(world, remote=RetentionSettings(total_bytes=25))
    await job.round()
    rows = await world.database.fetch("SELECT media_id FROM media WHERE origin = 'hs2'")
    assert {row[0] for row in rows} == {"m6", "m7"}
    await job.round()
    assert len(await left(world)) == 3


async def test_an_erased_user_leaves_nothing_and_others_keep_theirs(world: MediaWorld) -> None:
    await world.upload(b"shared")
    await world.upload(b"own")
    reserved = await world.uploads.reserve(ALICE)
    bobs = await world.upload(b"shared", by=BOB)
    await world.database.execute(
        "INSERT INTO accounts (user_id, is_guest, created_ms, is_deactivated, erased_at)"
        " VALUES ($1, false, 1, true, 7)",
        ALICE,
    )
    job = retention(world)
    await job.round()
    assert await world.media.load(reserved.mxc) is None
    world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS + 1
    await job.round()
    assert await world.read(bobs) == b"shared"
    assert world.files == ["blobs"]


async def test_the_job_goes_on_after_a_failure_and_a_deactivation_begins_a_round(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = MediaWorld(database, tmp_path)
    job = retention(world)
    rounds, began = 0, asyncio.Semaphore(0)

    async def fails_once() -> None:
        nonlocal rounds
        rounds += 1
        began.release()
        if rounds == 1:
            raise DatabaseUnavailable("away")

    monkeypatch.setattr(job, "round", fails_once)
    monkeypatch.setattr(limits, "MEDIA_RETENTION_S", 3600)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(job.run())
        await began.acquire()
        job.on_deactivated(ALICE)
        await began.acquire()
        monkeypatch.setattr(limits, "MEDIA_RETENTION_S", 0.001)
        job.on_deactivated(ALICE)
        for _ in range(3):
            await began.acquire()
        task.cancel()
    assert rounds >= 5
