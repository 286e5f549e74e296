"""The blob store in S3, against moto's S3 server, which runs as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.request import Request, urlopen

import obstore
import pytest

from homeserver import limits
from homeserver.storage.media.blob_store import BlobMissing, BlobStoreUnavailable
from homeserver.storage.media.s3_blobs import S3Blobs, open_bucket
from tests.homeserver.media_world import whole
from tests.homeserver.storage.media.store_checks import CHECKS, Check, keep
from tests.hostile.clients.running_server import free_port

LARGE_BYTES = limits.MEDIA_S3_PART_BYTES * 2 + 17
START_S = 60


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A running S3 server with an empty bucket."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + START_S
        while not _has_bucket(url):
            assert server.poll() is None, "moto's server has ended"
            assert time.monotonic() < deadline_s, "moto's server doesn't start"
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def _has_bucket(url: str) -> bool:
    try:
        with urlopen(Request(f"{url}/media", method="PUT")) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def open_store(endpoint: str, *, prefix: str = "matrix/media", bucket: str = "media") -> S3Blobs:
    return S3Blobs(
        open_bucket(
            bucket,
            prefix=prefix,
            endpoint=endpoint,
            region="us-east-1",
            access_key_id="key",
            secret_access_key="secret",
        )
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_is_a_blob_store(endpoint: str, check: Check) -> None:
    await check(open_store(endpoint), LARGE_BYTES)


async def test_contents_are_objects_below_the_prefix(endpoint: str) -> None:
    bucket = open_bucket(
        "media",
        prefix="",
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
    )
    for size in (10, LARGE_BYTES):
        content = await keep(open_store(endpoint, prefix="here/too"), os.urandom(size))
        path = f"here/too/blobs/{content.sha256.hex()}"
        assert (await obstore.head_async(bucket, path))["size"] == size
    listed = await obstore.list(bucket, "here").collect_async()
    assert len(listed) == 2, "nothing else is left"


async def test_what_a_dead_writer_left_goes_when_it_is_old(endpoint: str) -> None:
    bucket = open_bucket(
        "media",
        prefix="old",
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
    )
    await obstore.put_async(bucket, "incoming/dead", b"x")
    store = S3Blobs(bucket)
    assert await store.remove_unfinished(before_s=time.time() - 3600) == 0
    assert await store.remove_unfinished(before_s=time.time() + 3600) == 1
    assert await store.remove_unfinished(before_s=time.time() + 3600) == 0


async def test_a_shorter_object_is_no_content(endpoint: str) -> None:
    store = open_store(endpoint)
    content = await keep(store, b"ten bytes.")
    with pytest.raises((BlobMissing, BlobStoreUnavailable)):
        await whole(await store.read(content.sha256, 0, 11))


async def test_a_server_that_is_away_or_refuses_is_unavailable(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEDIA_S3_RETRIES", 0)
    for store in (
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
    await keep(open_store(endpoint), bytes(LARGE_BYTES))
    assert asked == [{"buffer_size": limits.MEDIA_S3_PART_BYTES, "max_concurrency": 1}]
    assert limits.MEDIA_S3_READ_BYTES < limits.MEDIA_S3_PART_BYTES
    assert limits.MEDIA_S3_REQUEST_S > 0
