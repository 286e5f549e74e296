"""Downloads over HTTP: headers, ranges, names, and what is served without a token."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver import limits
from homeserver.config_media import MediaSettings
from homeserver.rules.media.mxc import Mxc
from homeserver.rules.media.serving import SAFETY
from homeserver.storage.database import Database
from homeserver.storage.media.media import MediaItem
from tests.homeserver.api.handlers import GUEST
from tests.homeserver.api.media.media_client import V1, MediaClient, serving
from tests.homeserver.media_world import MediaWorld, NoRemoteMedia

DATA = os.urandom(2 * limits.MEDIA_PIECE_BYTES + 5)
TAG = f'"{hashlib.sha256(DATA).hexdigest()}"'
OLD = "/_matrix/media/v3/download"


@pytest.fixture
async def client(world: MediaWorld) -> AsyncIterator[MediaClient]:
    async with serving(world) as client:
        yield client


async def test_a_content_comes_whole_with_its_headers(client: MediaClient) -> None:
    mxc = await client.upload(DATA, query="?filename=a.png", content_type="image/png")
    reply = await client.download(mxc)
    assert (reply.status, reply.data) == (200, DATA)
    expected = {
        **SAFETY,
        "Content-Type": "image/png",
        "Content-Length": str(len(DATA)),
        "Content-Disposition": 'inline; filename="a.png"',
        "Cache-Control": f"private, max-age={limits.MEDIA_CACHED_S}, immutable",
        "ETag": TAG,
        "Accept-Ranges": "bytes",
        "Access-Control-Allow-Origin": "*",
    }
    assert {name: reply.headers.get(name) for name in expected} == expected


async def test_the_head_tells_the_same_without_the_content(client: MediaClient) -> None:
    mxc = await client.upload(DATA)
    path = f"{V1}/download/{mxc.origin}/{mxc.media_id}"
    got, head = await client.call("GET", path), await client.call("HEAD", path)
    assert (head.status, head.data) == (200, b"")
    skipped = {"Date"}
    assert {k: v for k, v in head.headers.items() if k not in skipped} == {
        k: v for k, v in got.headers.items() if k not in skipped
    }
    ranged = await client.call("HEAD", path, headers={"Range": "bytes=1-2"})
    assert (ranged.status, ranged.headers["Content-Length"]) == (206, "2")


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-", 10, len(DATA)),
        ("bytes=-3", len(DATA) - 3, len(DATA)),
        (f"bytes=5-{limits.MEDIA_PIECE_BYTES + 9}", 5, limits.MEDIA_PIECE_BYTES + 10),
        (f"bytes=7-{10**18}", 7, len(DATA)),
    ],
)
async def test_a_range_is_served(client: MediaClient, header: str, start: int, stop: int) -> None:
    mxc = await client.upload(DATA)
    for more in ({}, {"If_Range": TAG}):
        reply = await client.download(mxc, Range=header, **more)
        assert (reply.status, reply.data) == (206, DATA[start:stop])
        assert reply.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
        assert reply.headers["ETag"] == TAG


@pytest.mark.parametrize(
    "headers", [{"Range": "bytes=0-1,3-4"}, {"Range": "bytes=0-1", "If_Range": '"other"'}]
)
async def test_what_is_no_one_current_range_is_the_whole(
    client: MediaClient, headers: dict[str, str]
) -> None:
    reply = await client.download(await client.upload(DATA), **headers)
    assert (reply.status, reply.data) == (200, DATA)


async def test_a_range_outside_is_416(client: MediaClient) -> None:
    reply = await client.download(await client.upload(b"12345"), Range="bytes=5-")
    assert reply.refusal == (416, "M_UNKNOWN")
    assert reply.headers["Content-Range"] == "bytes */5"


async def test_who_has_it_already_gets_304(client: MediaClient) -> None:
    mxc = await client.upload(DATA)
    reply = await client.download(mxc, If_None_Match=f'"x", {TAG}')
    assert (reply.status, reply.data, reply.headers["ETag"]) == (304, b"", TAG)
    assert (await client.download(mxc, If_None_Match='"x"')).status == 200


async def test_an_empty_content_is_served(client: MediaClient) -> None:
    reply = await client.download(await client.upload(b""))
    assert (reply.status, reply.data, reply.headers["Content-Length"]) == (200, b"", "0")


async def test_a_page_is_an_attachment(client: MediaClient) -> None:
    mxc = await client.upload(b"<script>", query="?filename=a.html", content_type="text/html")
    reply = await client.download(mxc)
    assert reply.headers["Content-Disposition"] == 'attachment; filename="a.html"'
    assert reply.headers["Content-Type"] == "text/html"
    assert (await client.download(await client.upload())).headers["Content-Disposition"] == "inline"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("b.txt", 'inline; filename="b.txt"'),
        ("жёлтый.txt", "inline; filename*=UTF-8''%D0%B6%D1%91%D0%BB%D1%82%D1%8B%D0%B9.txt"),
        ('a"; x="', "inline; filename*=UTF-8''a%22%3B%20x%3D%22"),
        ("a\r\nX-Evil: 1", "inline; filename*=UTF-8''a%0D%0AX-Evil%3A%201"),
        ("a/b", "inline; filename*=UTF-8''a%2Fb"),
    ],
)
async def test_a_name_in_the_path_counts_and_injects_nothing(
    client: MediaClient, name: str, expected: str
) -> None:
    mxc = await client.upload(query="?filename=uploaded.txt")
    reply = await client.download(mxc, "/" + quote(name, safe=""))
    assert reply.headers["Content-Disposition"] == expected
    assert "X-Evil" not in reply.headers


async def test_names_and_times_are_bounded(client: MediaClient) -> None:
    mxc = await client.upload()
    longest = "a" * limits.MEDIA_NAME_CHARACTERS
    assert (await client.download(mxc, f"/{longest}")).status == 200
    assert (await client.download(mxc, f"/{longest}a")).refusal == (400, "M_INVALID_PARAM")
    for bad in ("-1", "x", "1.5"):
        reply = await client.download(mxc, f"?timeout_ms={bad}")
        assert reply.refusal == (400, "M_INVALID_PARAM")
    assert (await client.download(mxc, f"?timeout_ms={10**18}")).status == 200
    assert limits.MEDIA_WAIT_MS_DEFAULT == 20_000, "the specification's default"
    assert limits.MEDIA_WAIT_MS_DEFAULT <= limits.MEDIA_WAIT_MS_MAX


@pytest.mark.parametrize("place", ["hs1/unknown", "hs2/a", "hs1/a.b", "hs1/%2E%2E", "a%2Fb/c"])
async def test_an_unknown_uri_is_not_found(client: MediaClient, place: str) -> None:
    for prefix in (f"{V1}/download", OLD):
        assert (await client.call("GET", f"{prefix}/{place}")).refusal == (404, "M_NOT_FOUND")


async def test_a_token_is_asked_for_and_a_guests_is_enough(world: MediaWorld) -> None:
    async with serving(world, GUEST) as client:
        mxc = await world.upload()
        path = f"{V1}/download/{mxc.origin}/{mxc.media_id}"
        assert (await client.call("GET", path)).status == 200
        missing = await client.call("GET", path, token=False)
        assert missing.refusal == (401, "M_MISSING_TOKEN")


async def test_old_paths_serve_what_came_before_the_freeze(
    database: Database, tmp_path: Path, world: MediaWorld
) -> None:
    """While the setting is on, media are open for ever; the others never are."""
    settings = MediaSettings(unauthenticated=True)
    before = MediaWorld(database, tmp_path / "media", settings=settings, first_id=100)
    opened = await before.upload(b"open")
    closed = await world.upload(b"closed")
    async with serving(world) as client:

        async def old(media_id: str, more: str = "", prefix: str = OLD) -> tuple[int, bytes]:
            path = f"{prefix}/hs1/{media_id}{more}"
            reply = await client.call("GET", path, token=False)
            return reply.status, reply.data if reply.status == 200 else b""

        for more in ("", "/name", "?allow_remote=false"):
            assert await old(opened.media_id, more) == (200, b"open")
        r0 = "/_matrix/media/r0/download"
        assert await old(opened.media_id, prefix=r0) == (200, b"open")
        reply = await client.call("GET", f"{OLD}/hs1/{opened.media_id}", token=False)
        assert reply.headers["Cache-Control"].startswith("public, ")
        assert (await client.download(opened)).data == b"open"
        assert await old(closed.media_id) == (404, b"")


async def test_without_a_token_nothing_is_fetched_that_would_not_be_served(
    database: Database, tmp_path: Path
) -> None:
    asked: list[Mxc] = []

    class Noted(NoRemoteMedia):
        async def fetch(self, mxc: Mxc, *, timeout_ms: int) -> MediaItem:
            asked.append(mxc)
            return await super().fetch(mxc, timeout_ms=timeout_ms)

    for is_open in (False, True):
        settings = MediaSettings(unauthenticated=is_open)
        world = MediaWorld(database, tmp_path / "media", settings=settings, remote=Noted())
        async with serving(world) as client:
            path = f"{OLD}/elsewhere.example/picture"
            assert (await client.call("GET", path, token=False)).refusal == (404, "M_NOT_FOUND")
        assert len(asked) == is_open


async def test_a_lost_content_breaks_the_answer_off(client: MediaClient, world: MediaWorld) -> None:
    """What has no end isn't taken for the whole."""
    mxc = await client.upload(DATA)
    [path] = [path for path in world.folder.rglob("*") if path.is_file()]
    path.write_bytes(DATA[: limits.MEDIA_PIECE_BYTES])
    reader, writer = await client.connect()
    target = f"{V1}/download/{mxc.origin}/{mxc.media_id}"
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: hs1\r\nAuthorization: Bearer token\r\n\r\n".encode()
    )
    received = 0
    with suppress(ConnectionError):
        while piece := await reader.read(2**20):
            received += len(piece)
    assert 0 < received < len(DATA)
    writer.close()
