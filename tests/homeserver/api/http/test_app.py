"""The edge as a client meets it: errors, encodings, limits, CORS; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.api.admin.metrics import MetricsApi
from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson, Response, Stream
from homeserver.api.http.routes import Auth, Route, table
from homeserver.errors import not_found
from homeserver.metrics import ServerMetrics
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.storage.database import DatabaseUnavailable
from tests.federation.transport.memory_ports import JumpingClock
from tests.homeserver.api.account_server import AccountServer, account_server, open_config
from tests.homeserver.api.handlers import serving
from tests.homeserver.counted import counted

PIECES: list[int] = []
PIECE_BYTES, LONG_STREAM = 1 << 20, 1_000
"""Far more than the buffers of a connection hold."""


async def echo(request: Request) -> JsonObject:
    requester = request.requester_or_none
    return {
        "params": dict(request.params),
        "query": request.query.all("q"),
        "body": await request.json_or_empty(),
        "address": request.address,
        "user": requester.user_id if requester else None,
    }


async def canonical(request: Request) -> JsonObject:
    return await request.canonical()


async def raw(_request: Request) -> RawJson:
    return RawJson(b'{"raw": true}')


async def stream(request: Request) -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        if request.params["kind"] == "refused":
            raise not_found("There is none")
        for _ in range(LONG_STREAM if request.params["kind"] == "long" else 2):
            PIECES.append(1)
            yield b" " * PIECE_BYTES
        yield b"{}"

    return Stream(pieces())


async def teapot(_request: Request) -> Response:
    return Response(418, b"short", {"X-Pot": "tea"}, content_type="text/plain")


async def broken(_request: Request) -> JsonObject:
    raise RuntimeError("a bug")


async def away(_request: Request) -> JsonObject:
    raise DatabaseUnavailable("gone")


async def federated(_http: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
    return web.json_response(dict(params))


def odd_routes() -> list[Route]:
    return [
        Route("POST", "/_t/echo/{part}", echo, Auth.OPTIONAL, guests=True),
        Route("GET", "/_t/echo/{part}", echo, Auth.OPTIONAL, guests=True),
        Route("PUT", "/_t/canonical", canonical, Auth.NONE),
        Route("PUT", "/_t/small", canonical, Auth.NONE, body_bytes=10),
        Route("GET", "/_t/raw", raw, Auth.NONE),
        Route("GET", "/_t/stream/{kind}", stream, Auth.NONE),
        Route("GET", "/_t/teapot", teapot, Auth.NONE),
        Route("GET", "/_t/broken", broken, Auth.NONE),
        Route("GET", "/_t/away", away, Auth.NONE),
        Route("GET", "/_t/limited", raw, Auth.NONE, Limit.READS),
    ]


@pytest.fixture
async def server(accounts_url: str) -> AsyncIterator[AccountServer]:
    federation = [("GET", "/_matrix/federation/v1/event/{eventId}", federated)]
    reads = {"enabled": True, "reads": {"per_second": 0.5, "burst": 2}}
    config = open_config(rate_limits=reads)
    async with account_server(
        accounts_url, config=config, routes=odd_routes, federation=federation
    ) as running:
        yield running


async def raw_request(server: AccountServer, text: bytes) -> bytes:
    """Sends bytes as they are and reads until the server closes."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_tokens_missing_and_false(server: AccountServer) -> None:
    missing = await server.call("GET", "/account/whoami")
    assert (missing.status, missing.body["errcode"]) == (401, "M_MISSING_TOKEN")
    for header in ("Bearer nonsense", "Bearer ", "bearer \xff", "Basic abc"):
        reply = await server.call("GET", "/account/whoami", headers={"Authorization": header})
        assert reply.status == 401
    false = await server.call("GET", "/account/whoami?access_token=x")
    assert (false.body["errcode"], false.body["soft_logout"]) == ("M_UNKNOWN_TOKEN", False)


async def test_a_token_is_optional_where_it_says_so(server: AccountServer) -> None:
    alice = await server.register("alice")
    assert (await server.call("GET", "/_t/echo/x")).body["user"] is None
    reply = await server.call("GET", "/_t/echo/x", token=alice["access_token"])
    assert reply.body["user"] == "@alice:hs1"
    assert (await server.call("GET", "/_t/echo/x", token="false")).status == 401


async def test_paths_and_queries_are_decoded_once(server: AccountServer) -> None:
    reply = await server.call("GET", "/_t/echo/%23a%2Fb%2525?q=%26&q=%C3%A4")
    assert reply.body["params"] == {"part": "#a/b%25"}
    assert reply.body["query"] == ["&", "ä"]
    assert reply.body["address"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/_t/echo/%00", 400),
        (b"/_t/echo/%FF", 400),
        (b"/_t/echo/a?q=%00", 400),
        (b"/_t/echo/a?q=%FF", 400),
        (b"/_t/echo/\xff", 400),
        (b"/_t/echo/a?q=\xff", 400),
        (b"/_t/echo/%", 200),
        (b"/_t/echo/a/../b", 404),
        (b"/_t/echo", 404),
        (b"//_t/echo/a", 404),
        (b"http://other.example/_t/echo/a", 200),
        (b"http://other.example", 404),
        (b"*", 400),
    ],
)
async def test_odd_targets_never_fail_inside(
    server: AccountServer, target: bytes, status: int
) -> None:
    answer = await raw_request(
        server, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert answer.split()[1] == str(status).encode(), answer


async def test_r0_answers_as_v3_where_it_had_the_operation(server: AccountServer) -> None:
    token = (await server.register("alice"))["access_token"]
    older = await server.call("GET", "/_matrix/client/r0/account/whoami", token=token)
    assert older.body["user_id"] == "@alice:hs1"
    newer = await server.call("POST", "/_matrix/client/r0/knock/!r:hs1", {}, token=token)
    assert newer.body["errcode"] == "M_UNRECOGNIZED"


async def test_unknown_paths_and_methods(server: AccountServer) -> None:
    unknown = await server.call("GET", "/no/such/thing")
    assert (unknown.status, unknown.body["errcode"]) == (404, "M_UNRECOGNIZED")
    method = await server.call("DELETE", "/login")
    assert (method.status, method.body["errcode"]) == (405, "M_UNRECOGNIZED")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"[1]", "M_BAD_JSON"),
        (b'{"a":1.0}', "M_BAD_JSON"),
        (b'{"a":9007199254740992}', "M_BAD_JSON"),
        (b'{"a":99999999999999999999999}', "M_BAD_JSON"),
        (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "M_BAD_JSON"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "M_BAD_JSON"),
    ],
)
async def test_bad_bodies_get_the_spec_s_error(
    server: AccountServer, body: bytes, errcode: str
) -> None:
    reply = await server.call("PUT", "/_t/canonical", data=body)
    assert (reply.status, reply.body["errcode"]) == (400, errcode)


async def test_bodies_are_bounded_on_both_sides_of_the_limit(server: AccountServer) -> None:
    fits = b'{"a":"' + b"x" * (limits.UNAUTHENTICATED_BODY_BYTES - 8) + b'"}'
    assert (await server.call("PUT", "/_t/canonical", data=BytesIO(fits))).status == 200
    large = await server.call("PUT", "/_t/canonical", data=BytesIO(fits + b" "))
    assert (large.status, large.body["errcode"]) == (413, "M_TOO_LARGE")
    assert (await server.call("PUT", "/_t/small", data=b'{"a":1234}')).status == 200
    assert (await server.call("PUT", "/_t/small", data=b'{"a":12345}')).status == 413


async def test_a_body_in_chunks_is_bounded_too(server: AccountServer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"a":'
        yield b"12345}"

    assert (await server.call("PUT", "/_t/small", data=pieces())).status == 413


async def test_a_body_that_breaks_http_is_no_json(server: AccountServer) -> None:
    answer = await raw_request(
        server,
        b"PUT /_t/canonical HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: 5\r\nConnection: close\r\n\r\nabcde",
    )
    assert answer.split()[1] == b"400", answer


async def test_a_body_that_doesnt_come_is_given_up(
    server: AccountServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.05)
    answer = await raw_request(
        server,
        b"PUT /_t/canonical HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n"
        b"Connection: close\r\n\r\n{",
    )
    assert answer.split()[1] == b"408", answer


async def test_answers_have_their_own_status_headers_and_type(server: AccountServer) -> None:
    assert (await server.call("GET", "/_t/raw")).body == {"raw": True}
    async with server.session.get(server.url + "/_t/teapot") as response:
        assert (response.status, response.headers["X-Pot"]) == (418, "tea")
        assert (await response.text(), response.content_type) == ("short", "text/plain")
    async with server.session.head(server.url + "/_t/raw") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_stream_comes_in_pieces(server: AccountServer) -> None:
    reply = await server.call("GET", "/_t/stream/short")
    assert (reply.status, reply.body) == (200, {})
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "Content-Length" not in reply.headers


async def test_the_headers_of_a_stream_go_with_its_first_piece(
    server: AccountServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    heads = list[bytes]()
    write = transport.write

    def noted(self: asyncio.WriteTransport, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 200"):
            heads.append(bytes(data))
        write(self, data)

    monkeypatch.setattr(transport, "write", noted)
    assert (await server.call("GET", "/_t/stream/short")).status == 200
    [head] = heads
    assert len(head) > PIECE_BYTES


async def test_a_stream_is_refused_before_its_first_piece(server: AccountServer) -> None:
    assert (await server.call("GET", "/_t/stream/refused")).status == 404


async def test_the_head_of_a_stream_has_no_body(server: AccountServer) -> None:
    PIECES.clear()
    answer = await raw_request(
        server, b"HEAD /_t/stream/long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")
    assert len(PIECES) == 1


async def test_a_reader_that_stops_is_given_up(
    server: AccountServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds a piece in memory, not the rest, and not forever."""
    monkeypatch.setattr(limits, "STREAM_PIECE_S", 0.2)
    PIECES.clear()
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    writer.write(b"GET /_t/stream/long HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(60):
        while "broke off" not in caplog.text:
            await asyncio.sleep(0.01)
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(1 << 20), 30):
            received += piece
    assert not received.endswith(b"0\r\n\r\n")
    assert len(PIECES) < LONG_STREAM / 2
    writer.close()


@pytest.mark.parametrize("part", [1.05, 0.5])
async def test_a_stream_is_read_at_a_rate(monkeypatch: pytest.MonkeyPatch, part: float) -> None:
    """`part` of the slowest rate, for longer than a reader may be behind."""
    clock, taken = JumpingClock(), web.StreamResponse.write
    step_s = limits.STREAM_PATIENCE_S / 4
    piece = b"x" * int(step_s * limits.STREAM_BYTES_PER_S_MIN * part)

    async def take(response: web.StreamResponse, data: Any) -> None:
        clock.jump(step_s)
        await taken(response, data)

    async def stream(_request: Request) -> Stream:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                clock.jump(limits.STREAM_PATIENCE_S)  # isn't the reader's fault
                yield piece

        return Stream(pieces())

    monkeypatch.setattr(web.StreamResponse, "write", take)
    path = "/_matrix/client/v3/stream"
    async with (
        serving([Route("GET", path, stream, Auth.NONE)], clock=clock) as caller,
        aiohttp.ClientSession() as session,
        session.get(caller._url + path) as answer,
    ):
        if part > 1:
            assert len(await answer.read()) == 10 * len(piece)
        else:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()


async def test_a_reader_that_does_not_take_the_end_is_given_up(
    server: AccountServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait(_response: web.StreamResponse, _data: bytes = b"") -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(limits, "STREAM_PIECE_S", 0.05)
    monkeypatch.setattr(web.StreamResponse, "write_eof", wait)
    async with server.session.get(server.url + "/_t/stream/short") as answer:
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
    assert "broke off: TimeoutError" in caplog.text


async def test_a_bug_is_500_with_a_number_and_no_detail(
    server: AccountServer, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await server.call("GET", "/_t/broken?access_token=very-secret")
    assert (reply.status, reply.body["errcode"]) == (500, "M_UNKNOWN")
    assert "a bug" not in reply.body["error"]
    assert "a bug" in caplog.text
    assert "very-secret" not in caplog.text
    assert counted(server.metrics, "http_failures") == 1


async def test_a_database_that_is_away_is_503(server: AccountServer) -> None:
    reply = await server.call("GET", "/_t/away")
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) >= 1


async def test_a_limit_says_how_long_to_wait(server: AccountServer) -> None:
    statuses = [(await server.call("GET", "/_t/limited")).status for _ in range(2)]
    refused = await server.call("GET", "/_t/limited")
    assert (statuses, refused.status) == ([200, 200], 429)
    assert refused.body["errcode"] == "M_LIMIT_EXCEEDED"
    assert 0 < refused.body["retry_after_ms"] <= 2001
    assert int(refused.headers["Retry-After"]) in (1, 2, 3)


async def test_every_answer_to_a_client_has_cors_headers(server: AccountServer) -> None:
    for path in ("/login", "/account/whoami", "/no/such/thing", "/_t/broken", "/_t/teapot"):
        url = server.url + (path if path.startswith("/_") else "/_matrix/client/v3" + path)
        async with server.session.get(url) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "*"
    async with server.session.options(server.url + "/_matrix/client/v3/login") as response:
        assert response.status == 200
        assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
        assert "PUT" in response.headers["Access-Control-Allow-Methods"]


@pytest.mark.off_spec("a made-up handler")
async def test_federation_routes_get_their_parameters(server: AccountServer) -> None:
    reply = await server.call("GET", "/_matrix/federation/v1/event/%24abc")
    assert reply.body == {"eventId": "$abc"}
    unknown = await server.call("GET", "/_matrix/federation/v1/nothing")
    assert (unknown.status, unknown.body["errcode"]) == (404, "M_UNRECOGNIZED")


async def test_the_access_log_has_no_query(
    server: AccountServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "homeserver.access"):
        await server.call("GET", "/_t/echo/x?access_token=very-secret")
    assert "GET /_t/echo/x 401" in caplog.text
    assert "very-secret" not in caplog.text


async def test_requests_are_timed_by_route(server: AccountServer) -> None:
    await server.call("GET", "/_t/raw")
    text = server.metrics.text().decode()
    assert (
        'freehold_http_request_seconds_count{method="GET",route="/_t/raw",status="200"} 1' in text
    )


async def test_metrics_are_a_page(accounts_url: str) -> None:
    store = ServerMetrics()
    store.rechecks.inc("verified", amount=2)
    async with (
        account_server(accounts_url, routes=MetricsApi(store).routes) as server,
        server.session.get(server.url + "/metrics") as response,
    ):
        assert response.content_type == "text/plain"
        assert 'freehold_rechecks_total{result="verified"} 2.0' in await response.text()


def test_a_route_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two routes"):
        table([odd_routes(), odd_routes()])
