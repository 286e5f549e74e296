"""Bodies of requests: whole and in pieces, each with its limits, over a real connection."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.api.http.body import body_pieces
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route
from tests.homeserver.api.handlers import Caller, serving

BODY_BYTES = 1000
WHOLE, PIECES = "/_matrix/client/v3/whole", "/_matrix/client/v3/pieces"


async def whole(request: Request) -> JsonObject:
    return {"bytes": len(await request.body())}


async def in_pieces(request: Request) -> JsonObject:
    told = request.body_size
    return {"told": told, "bytes": sum([len(piece) async for piece in request.pieces()])}


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    routes = [
        Route("POST", WHOLE, whole, Auth.NONE, body_bytes=BODY_BYTES),
        Route("POST", PIECES, in_pieces, Auth.NONE),
    ]
    async with serving(routes) as caller:
        yield caller


async def raw(caller: Caller, path: str, rest: bytes, *, ends: bool = False) -> bytes:
    """Sends the rest of a request as it is; the answer's bytes until the server closes."""
    host, _, port = caller._url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {path} HTTP/1.1\r\nHost: hs1\r\nConnection: close\r\n".encode() + rest)
    await writer.drain()
    if ends:
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
    return answer


def chunked(*pieces: bytes, head: bytes = b"") -> bytes:
    """A body without a length."""
    framed = b"".join(f"{len(one):x}\r\n".encode() + one + b"\r\n" for one in (*pieces, b""))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed


async def test_a_whole_body_has_a_limit(caller: Caller) -> None:
    assert (await caller.call("POST", "/whole")).body == {"bytes": 0}
    assert (await caller.call("POST", "/whole", bytes(BODY_BYTES))).body == {"bytes": BODY_BYTES}
    refused = await caller.call("POST", "/whole", bytes(BODY_BYTES + 1))
    assert refused.refusal == (413, "M_TOO_LARGE")
    parts = (bytes(BODY_BYTES), b"x")
    assert b'"bytes":1000' in await raw(caller, WHOLE, chunked(parts[0]))
    assert (await raw(caller, WHOLE, chunked(*parts))).startswith(b"HTTP/1.1 413")


async def test_pieces_have_none_and_tell_their_size_if_it_is_known(caller: Caller) -> None:
    large = 50 * BODY_BYTES
    assert (await caller.call("POST", "/pieces")).body["bytes"] == 0
    found = await caller.call("POST", "/pieces", bytes(large))
    assert found.body == {"told": large, "bytes": large}
    answer = await raw(caller, PIECES, chunked(bytes(large)))
    assert b'{"told":null,"bytes":50000}' in answer


@pytest.mark.parametrize(
    ("framing", "joined"),
    [({"Content-Length": "600000"}, False), ({"Transfer-Encoding": "chunked"}, True)],
)
async def test_pieces_that_have_arrived_are_joined_only_where_their_sender_cut_them(
    framing: dict[str, str], joined: bool
) -> None:
    parts = [bytes(200_000) for _ in range(3)]
    content = StreamReader(BaseProtocol(asyncio.get_running_loop(), Mock()), 2**18)
    for part in parts:
        content.feed_data(part)
    content.feed_eof()
    http = make_mocked_request("POST", PIECES, framing, payload=content)
    found = [piece async for piece in body_pieces(http)]
    assert len(found) == (1 if joined else 3)
    assert joined or all(one is other for one, other in zip(found, parts, strict=True))
    assert sum(map(len, found)) == 600_000


async def test_the_size_of_a_compressed_body_is_not_known(caller: Caller) -> None:
    packed = zlib.compress(bytes(5000))
    head = f"Content-Encoding: deflate\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    assert b'{"told":null,"bytes":5000}' in await raw(caller, PIECES, head + packed)


@pytest.mark.parametrize("path", [WHOLE, PIECES])
async def test_a_client_that_waits_is_told_to_go_on_once(caller: Caller, path: str) -> None:
    host, _, port = caller._url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "Host: hs1\r\nExpect: 100-continue\r\nContent-Length: 7\r\nConnection: close\r\n\r\n"
    writer.write(f"POST {path} HTTP/1.1\r\n{head}".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"content")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("path", [WHOLE, PIECES])
@pytest.mark.parametrize(
    "rest", [b"Content-Length: 100\r\n\r\npart", chunked(b"part")[:-7] + b"nonsense"]
)
async def test_a_body_that_breaks_off_is_an_error(caller: Caller, path: str, rest: bytes) -> None:
    answer = await raw(caller, path, rest, ends=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


async def test_a_body_arrives_in_time(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = b"Content-Length: 100\r\n\r\npart"
    monkeypatch.setattr(limits, "BODY_S", 0.05)
    assert (await raw(caller, WHOLE, rest)).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(limits, "STREAM_PIECE_S", 0.05)
    assert (await raw(caller, PIECES, rest)).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(limits, "STREAM_PIECE_S", 60)
    monkeypatch.setattr(limits, "BODY_S", 0)
    monkeypatch.setattr(limits, "UPLOAD_BYTES_PER_S_MIN", 10**12)
    assert (await raw(caller, PIECES, rest)).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(limits, "UPLOAD_BYTES_PER_S_MIN", 1)
    assert (await caller.call("POST", "/pieces", bytes(10_000))).body["bytes"] == 10_000
