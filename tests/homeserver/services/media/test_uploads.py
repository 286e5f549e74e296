"""Uploads: what is refused before a byte is read, quotas, IDs given out beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from federation.errors import MatrixError
from federation.events.ids import UserId
from homeserver import limits
from homeserver.config_media import MediaSettings, QuotaSettings
from homeserver.rules.media.mxc import Mxc
from homeserver.services.media.uploads import Upload
from homeserver.storage.database import Database
from homeserver.storage.media.media import Description, MediaTable, Quota, QuotaLeft
from tests.homeserver.media_world import (
    ALICE,
    BOB,
    ELSEWHERE,
    HERE,
    HOUR_MS,
    NO_QUOTA,
    MediaWorld,
    pieces_of,
    refused,
)

PNG = Description("image/png", "a.png")


class Unread:
    """A body that must not be read."""

    def __aiter__(self) -> Unread:
        return self

    async def __anext__(self) -> bytes:
        raise AssertionError("the body was read")


def unread(size: int | None) -> Upload:
    return Upload(PNG, size, Unread())


def body(data: bytes, *, size: int | None = None) -> Upload:
    return Upload(PNG, size, pieces_of(data))


def small(database: Database, folder: Path, **more: int) -> MediaWorld:
    """A world whose uploads have 100 bytes at most; `more` is its quota."""
    quota = QuotaSettings(**{"bytes": 0, "files": 0, **more})
    return MediaWorld(database, folder, settings=MediaSettings(upload_bytes=100, quota=quota))


async def test_an_upload_is_there_under_a_new_uri(world: MediaWorld) -> None:
    mxc = await world.uploads.upload(ALICE, body(b"content"))
    again = await world.uploads.upload(ALICE, body(b"content"))
    assert mxc != again
    assert (mxc.origin, len(mxc.media_id)) == (HERE, limits.MEDIA_ID_BYTES * 4 // 3)
    item = await world.item(mxc)
    assert (item.uploader, item.content_type, item.file_name) == (ALICE, "image/png", "a.png")
    assert item.needs_token
    assert await world.read(again) == b"content"
    assert world.files == ["blobs"]


async def test_a_size_is_refused_before_and_while_it_is_read(
    database: Database, tmp_path: Path
) -> None:
    world = small(database, tmp_path)
    async with refused(413, "M_TOO_LARGE"):
        await world.uploads.upload(ALICE, unread(101))
    async with refused(413, "M_TOO_LARGE"):
        await world.uploads.upload(ALICE, body(bytes(101)))
    async with refused(413, "M_TOO_LARGE"):
        await world.uploads.upload(ALICE, body(bytes(101), size=5))
    assert world.files == []
    await world.uploads.upload(ALICE, body(bytes(100), size=100))
    assert world.uploads.bytes_max == 100


async def test_a_quota_is_exact(database: Database, tmp_path: Path) -> None:
    world = small(database, tmp_path, bytes=150, hours=2)
    await world.uploads.upload(ALICE, body(bytes(100)))
    async with refused(403, "M_FORBIDDEN"):
        await world.uploads.upload(ALICE, unread(51))
    async with refused(403, "M_FORBIDDEN"):
        await world.uploads.upload(ALICE, body(bytes(51)))
    await world.uploads.upload(ALICE, body(bytes(50)))
    await world.uploads.upload(BOB, body(bytes(100)))
    world.clock.at_ms += 2 * HOUR_MS
    await world.uploads.upload(ALICE, body(bytes(100)))


async def test_the_database_is_asked_for_a_quota_only_when_it_nears(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory is bounded, and what isn't is asked for."""
    monkeypatch.setattr(limits, "MEDIA_QUOTAS_CACHED", 1)
    world = small(database, tmp_path, bytes=250)
    asked: list[UserId] = []
    quota_left = MediaTable.quota_left

    async def noted(table: MediaTable, uploader: UserId, quota: Quota) -> QuotaLeft:
        asked.append(uploader)
        return await quota_left(table, uploader, quota)

    monkeypatch.setattr(MediaTable, "quota_left", noted)
    for _ in range(2):
        await world.uploads.upload(ALICE, body(bytes(100), size=100))
    assert asked == [ALICE]
    async with refused(403, "M_FORBIDDEN"):
        await world.uploads.upload(ALICE, unread(51))
    assert asked == [ALICE] * 2
    await world.uploads.upload(BOB, body(b"", size=0))
    await world.uploads.upload(ALICE, body(b"", size=0))
    assert asked == [ALICE, ALICE, BOB, ALICE]


async def test_uploads_at_once_share_the_quota(database: Database, tmp_path: Path) -> None:
    world = small(database, tmp_path, files=3)

    done = await asyncio.gather(
        *(world.uploads.upload(ALICE, body(bytes([number]))) for number in range(8)),
        return_exceptions=True,
    )
    refusals = [one.errcode for one in done if isinstance(one, MatrixError)]
    assert refusals == ["M_FORBIDDEN"] * 5
    async with refused(403, "M_FORBIDDEN"):
        await world.uploads.upload(ALICE, unread(0))


async def test_uploads_of_a_user_at_once_are_bounded(
    world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_UPLOADS_AT_ONCE", 2)
    may_end, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def slow() -> AsyncGenerator[bytes, None]:
        begun.release()
        await may_end.wait()
        yield b"content"

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(world.uploads.upload(ALICE, Upload(PNG, None, slow())))
            await begun.acquire()
        with pytest.raises(MatrixError) as found:
            await world.uploads.upload(ALICE, unread(1))
        assert (found.value.status, found.value.errcode) == (429, "M_LIMIT_EXCEEDED")
        retry_ms = limits.MEDIA_PENDING_RETRY_AFTER_S * 1000
        assert found.value.extra["retry_after_ms"] == retry_ms + 1
        await world.upload(by=BOB)
        may_end.set()
    await world.upload()
    assert not world.uploads._under_way


async def test_an_id_is_given_out_and_gets_its_content(world: MediaWorld) -> None:
    reserved = await world.uploads.reserve(ALICE)
    assert reserved.expires_ms == world.clock.now_ms() + limits.MEDIA_RESERVED_MS
    async with refused(403, "M_FORBIDDEN"):
        await world.uploads.upload_to(BOB, reserved.mxc, unread(1))
    await world.uploads.upload_to(ALICE, reserved.mxc, body(b"content"))
    assert await world.read(reserved.mxc) == b"content"
    async with refused(409, "M_CANNOT_OVERWRITE_MEDIA"):
        await world.uploads.upload_to(ALICE, reserved.mxc, unread(1))
    plain = await world.upload()
    async with refused(409, "M_CANNOT_OVERWRITE_MEDIA"):
        await world.uploads.upload_to(ALICE, plain, unread(1))


async def test_an_id_of_nobody_or_of_the_past_is_not_found(world: MediaWorld) -> None:
    reserved = await world.uploads.reserve(ALICE)
    far = await world.keep_remote("far")
    for mxc in (Mxc(HERE, "unknown"), Mxc(ELSEWHERE, reserved.mxc.media_id), far):
        async with refused(404, "M_NOT_FOUND"):
            await world.uploads.upload_to(ALICE, mxc, unread(1))
    world.clock.at_ms = reserved.expires_ms
    async with refused(404, "M_NOT_FOUND"):
        await world.uploads.upload_to(ALICE, reserved.mxc, unread(1))


async def test_an_upload_that_outlasts_its_id_is_not_found(world: MediaWorld) -> None:
    reserved = await world.uploads.reserve(ALICE)

    async def late() -> AsyncGenerator[bytes, None]:
        world.clock.at_ms = reserved.expires_ms
        yield b"content"

    async with refused(404, "M_NOT_FOUND"):
        await world.uploads.upload_to(ALICE, reserved.mxc, Upload(PNG, None, late()))


async def test_of_two_uploads_to_an_id_the_first_to_end_wins(world: MediaWorld) -> None:
    reserved = await world.uploads.reserve(ALICE)

    async def overtaken() -> AsyncGenerator[bytes, None]:
        yield b"slow"
        await world.uploads.upload_to(ALICE, reserved.mxc, body(b"quick"))

    async with refused(409, "M_CANNOT_OVERWRITE_MEDIA"):
        await world.uploads.upload_to(ALICE, reserved.mxc, Upload(PNG, None, overtaken()))
    assert await world.read(reserved.mxc) == b"quick"


async def test_a_quota_and_a_broken_body_leave_the_id_as_it_was(
    database: Database, tmp_path: Path
) -> None:
    world = small(database, tmp_path, bytes=10)
    reserved = await world.uploads.reserve(ALICE)
    async with refused(403, "M_FORBIDDEN"):
        await world.uploads.upload_to(ALICE, reserved.mxc, body(bytes(11)))

    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"cont"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await world.uploads.upload_to(ALICE, reserved.mxc, Upload(PNG, None, broken()))
    await world.uploads.upload_to(ALICE, reserved.mxc, body(b"content"))
    assert await world.read(reserved.mxc) == b"content"


async def test_pending_ids_are_bounded(world: MediaWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEDIA_PENDING", 2)
    results = await asyncio.gather(
        *(world.uploads.reserve(ALICE) for _ in range(4)), return_exceptions=True
    )
    refusals = [one for one in results if isinstance(one, MatrixError)]
    assert [one.errcode for one in refusals] == ["M_LIMIT_EXCEEDED"] * 2
    await world.uploads.reserve(BOB)


async def test_media_of_an_open_time_need_no_token(database: Database, tmp_path: Path) -> None:
    settings = MediaSettings(unauthenticated=True, quota=NO_QUOTA)
    world = MediaWorld(database, tmp_path, settings=settings)
    assert not (await world.item(await world.upload())).needs_token
    assert not (await world.item((await world.uploads.reserve(ALICE)).mxc)).needs_token
