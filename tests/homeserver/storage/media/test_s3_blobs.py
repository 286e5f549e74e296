"""The blob store in S3, against moto's S3 server, which runs as a process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import obstore
import pytest
from obstore.store import S3Store

from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.media.blob_store import BlobMissing, BlobStoreUnavailable
from homeserver.storage.media.quarantine import QuarantineTable
from homeserver.storage.media.s3_blobs import S3Blobs, open_bucket
from tests.homeserver.media_world import MediaWorld, whole
from tests.homeserver.s3_server import s3_server, s3_settings
from tests.homeserver.storage.media.store_checks import CHECKS, Check, keep
from tests.hostile.clients.running_server import free_port

LARGE_BYTES = limits.MEDIA_S3_PART_BYTES * 2 + 17


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A running S3 server with an empty bucket."""
    with s3_server() as url:
        yield url


def open_store(
    endpoint: str, *, prefix: str = "matrix/media", bucket: str = "media"
) -> tuple[S3Blobs, S3Store]:
    settings = s3_settings(endpoint, prefix=prefix, bucket=bucket)
    opened = open_bucket(**msgspec.structs.asdict(settings))
    return S3Blobs(opened), opened


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_is_a_blob_store(endpoint: str, check: Check) -> None:
    await check(open_store(endpoint)[0], LARGE_BYTES)


async def test_contents_are_objects_below_the_prefix(endpoint: str) -> None:
    store, _ = open_store(endpoint, prefix="here/too")
    _, bucket = open_store(endpoint, prefix="")
    for size in (10, LARGE_BYTES):
        content = await keep(store, os.urandom(size))
        path = f"here/too/blobs/{content.sha256.hex()}"
        assert (await obstore.head_async(bucket, path))["size"] == size
    listed = await obstore.list(bucket, "here").collect_async()
    assert len(listed) == 2, "nothing else is left"


async def test_what_a_dead_writer_left_goes_when_it_is_old(endpoint: str) -> None:
    store, bucket = open_store(endpoint, prefix="old")
    await obstore.put_async(bucket, "incoming/dead", b"x")
    assert await store.remove_unfinished(before_s=time.time() - 3600) == 0
    assert await store.remove_unfinished(before_s=time.time() + 3600) == 1
    assert await store.remove_unfinished(before_s=time.time() + 3600) == 0


async def test_media_come_and_go_as_on_a_disk(
    endpoint: str, database: Database, tmp_path: Path
) -> None:
    store, bucket = open_store(endpoint, prefix="whole")
    world = MediaWorld(database, tmp_path, store=store)
    data = os.urandom(LARGE_BYTES)
    mxc, again = await world.upload(data), await world.upload(data)
    assert await world.read(mxc) == data
    item = await world.item(mxc)
    assert await whole(await world.downloads.read(item, 5, LARGE_BYTES - 5)) == data[5:-5]
    quarantine = QuarantineTable(database)
    await quarantine.delete(mxc)
    world.clock.at_ms += limits.MEDIA_UNREFERENCED_MS + 1
    assert await world.contents.delete_unreferenced() == 0
    assert await world.read(again) == data
    await quarantine.delete(again)
    assert await world.contents.delete_unreferenced() == 1
    assert await obstore.list(bucket, None).collect_async() == []


async def test_a_shorter_object_is_no_content(endpoint: str) -> None:
    store, _ = open_store(endpoint)
    content = await keep(store, b"ten bytes.")
    with pytest.raises((BlobMissing, BlobStoreUnavailable)):
        await whole(await store.read(content.sha256, 0, 11))


async def test_a_server_that_is_away_or_refuses_is_unavailable(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_S3_RETRIES", 0)
    for store, _ in (
        open_store(f"http://127.0.0.1:{free_port()}"),
        open_store(endpoint, bucket="no-such-bucket"),
    ):
        for size in (1, limits.MEDIA_S3_PART_BYTES + 1):
            with pytest.raises((BlobStoreUnavailable, BlobMissing)):
                await keep(store, os.urandom(size))


async def test_two_parts_are_in_memory_at_most(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts have the least size that S3 takes, and one is sent at a time."""
    asked: list[dict[str, object]] = []
    original = obstore.open_writer_async

    def noted(store: object, path: str, **options: object) -> object:
        asked.append(options)
        return original(store, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore, "open_writer_async", noted)
    await keep(open_store(endpoint)[0], bytes(LARGE_BYTES))
    assert asked == [{"buffer_size": limits.MEDIA_S3_PART_BYTES, "max_concurrency": 1}]
    assert limits.MEDIA_S3_READ_BYTES < limits.MEDIA_S3_PART_BYTES
    assert limits.MEDIA_S3_REQUEST_S > 0
