"""What isn't a request at all, or too long for one: answered in JSON, and kept out of the log."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import orjson
import pytest
from aiohttp import web

from homeserver import limits
from homeserver.api.http.app import HttpApp
from homeserver.api.http.server import HttpServer
from homeserver.config import Listener
from tests.hostile.clients.conftest import Scene
from tests.hostile.clients.running_server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "fha_not-for-the-log"


async def raw(server: Server, data: bytes) -> tuple[bytes, bytes]:
    """Sends bytes and reads until the server closes: the head and the body of its answer."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    async with asyncio.timeout(40):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


UNREADABLE = (
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /?access_token=" + SECRET.encode() + b" HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: " + SECRET.encode() + b"\0\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /?access_token="
    + SECRET.encode()
    + b"x" * limits.REQUEST_LINE_BYTES
    + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nAuthorization: Bearer "
    + SECRET.encode()
    + b"x" * limits.HEADER_BYTES
    + b"\r\n\r\n",
)


async def test_what_is_no_request_is_answered_in_json(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for data in UNREADABLE:
        head, body = await raw(server, data)
        status = int(head.split(b" ")[1])
        assert 400 <= status < 500, (data[:80], head)
        assert b"Access-Control-Allow-Origin: *" in head, data[:80]
        assert orjson.loads(body)["errcode"].startswith("M_")
    assert SECRET not in caplog.text


async def test_a_long_query_is_read_up_to_the_limit(scene: Scene) -> None:
    server = scene.server
    spare = len(" HTTP/1.1") + len("GET /_matrix/client/versions?x=")
    text = "x" * (limits.REQUEST_LINE_BYTES - spare - 10)
    assert (await server.call("GET", f"/_matrix/client/versions?x={text}")).status == 200
    reply = await server.call("GET", f"/_matrix/client/versions?x={text * 2}")
    assert (reply.status, reply.errcode) == (414, "M_TOO_LARGE")


async def test_a_body_that_breaks_its_framing_is_refused(scene: Scene) -> None:
    token = scene.alice.token.encode()
    head = b"POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
    chunked = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = await scene.server.rows()
    answer, body = await raw(scene.server, head + token + chunked + b"zz\r\n{}\r\n0\r\n\r\n")
    assert answer.split(b" ")[1] == b"400"
    assert orjson.loads(body)["errcode"].startswith("M_")
    assert await scene.server.rows() == before


@pytest.mark.parametrize("content_type", ["text/plain", "nonsense", "application/x-www-form"])
async def test_the_content_type_does_not_matter(scene: Scene, content_type: str) -> None:
    """Clients send JSON under many names."""
    reply = await scene.server.call(
        "POST", "/createRoom", b"{}", by=scene.alice, headers={"Content-Type": content_type}
    )
    assert reply.status == 200


async def test_a_body_larger_than_the_limit_is_refused(scene: Scene) -> None:
    size = limits.CLIENT_BODY_BYTES
    for length, status in ((size, 400), (size + 1, 413)):
        body = b'{"a":"' + b"x" * (length - 8) + b'"}'
        reply = await scene.server.call("PUT", f"/sendToDevice/t/{length}", body, by=scene.alice)
        assert reply.status == status, reply
    assert reply.errcode == "M_TOO_LARGE"


class OneAnswer:
    """An edge that answers everything alike."""

    async def handle(self, _http: web.BaseRequest, *, is_behind_proxy: bool) -> web.StreamResponse:
        """An empty answer."""
        return web.Response(status=404 if is_behind_proxy else 200)


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\n\r\nGET /"],
)
async def test_a_request_that_never_ends_is_given_up(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEEP_ALIVE_S", 0.1)
    http = HttpServer(cast(HttpApp, OneAnswer()), [Listener(address="127.0.0.1:0")])
    await http.start()
    try:
        reader, writer = await asyncio.open_connection(*http.addresses[0])
        writer.write(begun)
        async with asyncio.timeout(40):
            await reader.read()
        writer.close()
    finally:
        await http.stop()
