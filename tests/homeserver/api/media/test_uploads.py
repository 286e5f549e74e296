"""Uploads over HTTP: bodies that lie, break off and dawdle; IDs given out beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver import limits
from homeserver.config_media import MediaSettings
from homeserver.rules.media.mxc import parse_mxc
from homeserver.storage.database import Database
from tests.homeserver.api.handlers import GUEST
from tests.homeserver.api.media.media_client import TOKEN, UPLOAD, V1, MediaClient, serving
from tests.homeserver.media_world import MediaWorld

UPLOAD_BYTES = 1_000_000
HEAD = f"POST {UPLOAD} HTTP/1.1\r\nHost: hs1\r\nAuthorization: {TOKEN['Authorization']}\r\n"


@pytest.fixture
def world(database: Database, tmp_path: Path) -> MediaWorld:
    settings = MediaSettings(upload_bytes=UPLOAD_BYTES)
    return MediaWorld(database, tmp_path / "media", settings=settings)


@pytest.fixture
async def client(world: MediaWorld) -> AsyncIterator[MediaClient]:
    async with serving(world) as client:
        yield client


async def raw(client: MediaClient, text: bytes, *, ends: bool = False) -> bytes:
    """Sends bytes as they are; reads until the server closes, or, with `ends`, closes first."""
    reader, writer = await client.connect()
    writer.write(text)
    await writer.drain()
    if ends:
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_what_was_uploaded_is_described(client: MediaClient, world: MediaWorld) -> None:
    query = f"?filename={quote('Война и мир.pdf')}"
    item = await world.item(await client.upload(query=query, content_type="application/pdf"))
    assert (item.content_type, item.file_name) == ("application/pdf", "Война и мир.pdf")
    item = await world.item(await client.upload(query="?filename="))
    assert item.file_name is None
    reply = await client.call("POST", UPLOAD, b"content")
    item = await world.item(parse_mxc(reply.body["content_uri"]))
    assert item.content_type == "application/octet-stream"
    await client.upload(b"")


async def test_the_size_is_told_and_held(client: MediaClient) -> None:
    for path in (f"{V1}/config", "/_matrix/media/v3/config", "/_matrix/media/r0/config"):
        assert (await client.call("GET", path)).body == {"m.upload.size": UPLOAD_BYTES}
        assert (await client.call("GET", path, token=False)).status == 401
    await client.upload(bytes(UPLOAD_BYTES))
    reply = await client.call("POST", UPLOAD, bytes(UPLOAD_BYTES + 1))
    assert reply.refusal == (413, "M_TOO_LARGE")


async def test_a_body_without_a_length_is_held_too(client: MediaClient, world: MediaWorld) -> None:
    async def pieces(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 1000):
            yield bytes(1000)

    assert (await client.call("POST", UPLOAD, pieces(UPLOAD_BYTES))).status == 200
    chunk = b"186A0\r\n" + bytes(100_000) + b"\r\n"
    head = HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = await raw(client, head + chunk * (UPLOAD_BYTES // 100_000 + 1))
    assert answer.startswith(b"HTTP/1.1 413")
    assert await world.counts() == [1]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("a" * limits.MEDIA_NAME_CHARACTERS, 200),
        ("a" * (limits.MEDIA_NAME_CHARACTERS + 1), 400),
        ("a%00b", 400),
        ("%FF", 400),
        ("a%0D%0Ab", 200),
    ],
)
async def test_names_are_bounded_and_text(client: MediaClient, name: str, status: int) -> None:
    assert (await client.call("POST", f"{UPLOAD}?filename={name}", b"x")).status == status


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 100\r\n\r\nonly a part",
        b"Transfer-Encoding: chunked\r\n\r\n64\r\nonly a part",
        b"Transfer-Encoding: chunked\r\n\r\nnonsense",
    ],
)
async def test_a_body_that_breaks_off_leaves_nothing(
    client: MediaClient, world: MediaWorld, framing: bytes
) -> None:
    answer = await raw(client, HEAD.encode() + framing, ends=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    await client.upload(b"other")
    assert await world.counts() == [1]
    assert world.files == ["blobs"]


async def test_a_client_that_waits_is_told_to_go_on(client: MediaClient) -> None:
    reader, writer = await client.connect()
    writer.write(HEAD.encode() + b"Content-Length: 7\r\nExpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"content")
    assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_refused_client_that_waits_sends_nothing(client: MediaClient) -> None:
    size = UPLOAD_BYTES + 1
    head = f"{HEAD}Content-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
    assert (await raw(client, head.encode())).startswith(b"HTTP/1.1 413")


async def test_a_pause_or_a_slow_body_is_given_up(
    client: MediaClient, world: MediaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = HEAD.encode() + b"Content-Length: 100000\r\n\r\n"
    monkeypatch.setattr(limits, "STREAM_PIECE_S", 0.05)
    assert (await raw(client, head + b"a part")).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(limits, "STREAM_PIECE_S", 60)
    monkeypatch.setattr(limits, "BODY_S", 0)
    monkeypatch.setattr(limits, "UPLOAD_BYTES_PER_S_MIN", 10**12)
    assert (await raw(client, head + b"a part")).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(limits, "UPLOAD_BYTES_PER_S_MIN", 1)
    await client.upload(b"x" * 100_000)
    assert world.files == ["blobs"]


async def test_an_id_is_given_out_and_filled(client: MediaClient, world: MediaWorld) -> None:
    reply = await client.call("POST", "/_matrix/media/v1/create")
    mxc = parse_mxc(reply.body["content_uri"])
    assert reply.body["unused_expires_at"] == world.clock.now_ms() + limits.MEDIA_RESERVED_MS
    path = f"{UPLOAD}/{mxc.origin}/{mxc.media_id}"
    waiting = await client.download(mxc, "?timeout_ms=0")
    assert waiting.refusal == (504, "M_NOT_YET_UPLOADED")
    headers = {"Content-Type": "image/png"}
    assert (await client.call("PUT", f"{path}?filename=a", b"x", headers=headers)).body == {}
    found = await client.download(mxc)
    assert (found.data, found.headers["Content-Disposition"]) == (b"x", 'inline; filename="a"')
    again = await client.call("PUT", path, b"x")
    assert again.refusal == (409, "M_CANNOT_OVERWRITE_MEDIA")


@pytest.mark.parametrize("place", ["hs1/unknown", "hs2/a", "hs1/a.b", "%2E%2E/a", "hs1/..%2Fa"])
async def test_an_unknown_id_is_not_found(client: MediaClient, place: str) -> None:
    reply = await client.call("PUT", f"{UPLOAD}/{place}", b"x")
    assert reply.refusal == (404, "M_NOT_FOUND")


async def test_guests_upload_nothing(world: MediaWorld) -> None:
    async with serving(world, GUEST) as client:
        for method, path in (
            ("POST", UPLOAD),
            ("PUT", f"{UPLOAD}/hs1/a"),
            ("POST", "/_matrix/media/v1/create"),
        ):
            assert (await client.call(method, path, b"x")).refusal == (
                403,
                "M_GUEST_ACCESS_FORBIDDEN",
            )


async def test_the_old_prefix_leads_to_what_was_there(client: MediaClient) -> None:
    assert (await client.call("POST", "/_matrix/media/r0/upload", b"x")).status == 200
    reply = await client.call("PUT", "/_matrix/media/r0/upload/hs1/a", b"x")
    assert reply.refusal == (404, "M_UNRECOGNIZED")


async def test_a_store_that_is_away_is_503(client: MediaClient, world: MediaWorld) -> None:
    world.folder.write_text("not a folder")
    reply = await client.call("POST", UPLOAD, b"x")
    assert reply.status == 503
    assert reply.headers["Retry-After"] == str(limits.UNAVAILABLE_RETRY_AFTER_S)
