"""Requests to other servers: signed, bounded, told apart by kind of failure."""

import asyncio
from unittest.mock import patch

import pytest
from aiohttp import web

from federation.causes import Cause, CauseKind, address_cause, caused_by
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.limits import (
    FAILURE_CHARACTERS_MAX,
    FETCH_WAIT_OF_ADDRESS_S_MAX,
    FETCHES_PER_SERVER_AND_CAUSE_MAX,
    RETRY_AFTER_DIGITS_MAX,
)
from federation.transport.requests import client as client_module
from federation.transport.requests.client import (
    FailureKind,
    FederationError,
    ServerRequest,
    TurnKind,
    build_target,
    encode_content,
)
from federation.transport.requests.dialer import Bounds
from tests.federation.transport.loopback import Lie, Peer, loopback
from tests.federation.transport.memory_ports import until


async def failed(peer: Peer, request: ServerRequest) -> FederationError:
    with pytest.raises(FederationError) as caught:
        await peer.client.request(request)
    return caught.value


def answering(status: int, body: bytes, **headers: str) -> Lie:
    async def answer(request: web.BaseRequest, _: object) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer


def test_targets_are_percent_encoded() -> None:
    target = build_target("/v1/x", "!a:b/c", "$d+e", query=[("v", "$f/g h"), ("v", "ü")])
    assert target == "/v1/x/%21a%3Ab%2Fc/%24d%2Be?v=%24f%2Fg%20h&v=%C3%BC"


def test_bodies_are_canonical_and_floats_are_possible() -> None:
    assert encode_content({"b": 1, "a": [True]}) == b'{"a":[true],"b":1}'
    assert encode_content({"a": 0.5}) == b'{"a":0.5}'


@pytest.mark.parametrize(
    ("status", "body", "kind", "is_retryable"),
    [
        (404, b'{"errcode":"M_NOT_FOUND","error":"x"}', FailureKind.STATUS, False),
        (403, b"<html>", FailureKind.STATUS, False),
        (500, b"", FailureKind.STATUS, True),
        (429, b'{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":9000}', FailureKind.STATUS, True),
        (302, b"", FailureKind.STATUS, False),
        (200, b"[]", FailureKind.BAD_JSON, False),
        (200, b"{", FailureKind.BAD_JSON, False),
        (200, b'{"x":"' + b"y" * 1_000 + b'"}', FailureKind.TOO_LARGE, False),
    ],
)
async def test_failures_are_told_apart(
    status: int, body: bytes, kind: FailureKind, is_retryable: bool
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.lies["/x"] = answering(status, body)
        error = await failed(a, ServerRequest(b.name, "GET", "/x", bounds=Bounds(bytes_max=1_000)))
        assert (error.kind, error.is_retryable) == (kind, is_retryable)
        assert (a.backoffs.wait_s(b.name) > 0) is is_retryable
        assert error.server == b.name


async def test_a_wait_that_the_peer_asks_for_is_kept() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.lies["/x"] = answering(503, b"{}", **{"Retry-After": "77"})
        await failed(a, ServerRequest(b.name, "GET", "/x"))
        assert a.backoffs.wait_s(b.name) == 77
        error = await failed(a, ServerRequest(b.name, "GET", "/x"))
        assert error.kind is FailureKind.BACKING_OFF
        b.lies["/x"] = answering(200, b'{"y":1}')
        request = ServerRequest(b.name, "GET", "/x", despite_backoff=True)
        assert await a.client.request(request) == {"y": 1}
        assert a.backoffs.wait_s(b.name) == 0


async def test_a_transaction_that_is_not_taken_counts_whatever_the_status() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for status, counts in ((404, True), (413, False)):
            b.lies["/x"] = answering(status, b"{}")
            await failed(a, ServerRequest(b.name, "PUT", "/x", {}, must_succeed=True))
            assert (a.backoffs.wait_s(b.name) > 0) is counts
            a.backoffs.succeeded(b.name)


async def test_private_addresses_need_an_override() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for name in ("127.0.0.1:8448", "[::1]:8448", "localhost:8448"):
            error = await failed(a, ServerRequest(type(b.name)(name), "GET", "/x"))
            assert error.kind is FailureKind.ADDRESS
            assert error.is_retryable


async def test_get_is_a_request_without_body() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        answer: JsonObject = await a.client.get(b.name, "/_matrix/federation/v1/version")
        assert answer == {"server": {"name": "Freehold", "version": "0.1.0"}}
        assert a.client.backoffs is a.backoffs


class Held:
    """An endpoint that answers when it is told to; counts who waits."""

    def __init__(self) -> None:
        self.waiting, self.over = 0, asyncio.Event()

    async def __call__(self, request: web.BaseRequest, _: object) -> web.StreamResponse:
        self.waiting += 1
        await self.over.wait()
        return web.json_response({})


async def test_a_question_takes_a_turn_and_a_delivery_does_not() -> None:
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        held = b.lies["/x"] = Held()
        c.lies["/x"] = answering(200, b"{}")
        cause = Cause(CauseKind.SERVER, "c.test")
        at_once = FETCHES_PER_SERVER_AND_CAUSE_MAX
        async with asyncio.TaskGroup() as group:
            with caused_by(cause):
                for _ in range(at_once + 1):
                    group.create_task(a.client.request(ServerRequest(b.name, "GET", "/x")))
                await until(lambda: held.waiting == at_once)
                assert await a.client.request(ServerRequest(c.name, "GET", "/x")) == {}
                delivery = ServerRequest(b.name, "GET", "/x", turn=TurnKind.DELIVERY)
                group.create_task(a.client.request(delivery))
                await until(lambda: held.waiting == at_once + 1)
            held.over.set()
        assert held.waiting == at_once + 2


async def test_without_a_turn_nothing_is_asked_and_nobody_blamed() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        held = b.lies["/x"] = Held()
        async with asyncio.TaskGroup() as group:
            with caused_by(address_cause("192.0.2.1")):
                for _ in range(FETCHES_PER_SERVER_AND_CAUSE_MAX):
                    group.create_task(a.client.request(ServerRequest(b.name, "GET", "/x")))
                await until(lambda: held.waiting == FETCHES_PER_SERVER_AND_CAUSE_MAX)
                late = group.create_task(failed(a, ServerRequest(b.name, "GET", "/x")))
                for _ in range(10):
                    await asyncio.sleep(0)
                net.clock.jump(FETCH_WAIT_OF_ADDRESS_S_MAX + 0.1)
                error = await late
            held.over.set()
        assert (error.kind, error.is_retryable, error.is_down) == (FailureKind.BUSY, True, False)
        assert a.backoffs.of(b.name) is None


async def test_who_waits_for_a_turn_at_a_server_that_fails_is_told_so() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        over, asked = asyncio.Event(), 0

        async def fail(request: web.BaseRequest, _: object) -> web.StreamResponse:
            nonlocal asked
            asked += 1
            await over.wait()
            return web.Response(status=503)

        b.lies["/x"] = fail
        async with asyncio.TaskGroup() as group:
            with caused_by(Cause(CauseKind.SERVER, "c.test")):
                tasks = [
                    group.create_task(failed(a, ServerRequest(b.name, "GET", "/x")))
                    for _ in range(20)
                ]
            await until(lambda: asked == FETCHES_PER_SERVER_AND_CAUSE_MAX)
            over.set()
        kinds = [task.result().kind for task in tasks]
        assert kinds.count(FailureKind.BACKING_OFF) == 20 - FETCHES_PER_SERVER_AND_CAUSE_MAX
        assert asked == FETCHES_PER_SERVER_AND_CAUSE_MAX


async def test_deliveries_to_servers_not_heard_from_leave_room_for_others() -> None:
    async with loopback() as net:
        b, c = await net.peer("b.test"), await net.peer("c.test")
        held = b.lies["/x"] = Held()
        c.lies["/x"] = answering(200, b"{}")
        with patch("federation.transport.requests.client.DELIVERIES_UNCONFIRMED_AT_ONCE_MAX", 2):
            client = (await net.peer("a.test")).client
        to_hole = ServerRequest(b.name, "GET", "/x", turn=TurnKind.DELIVERY)
        to_other = ServerRequest(c.name, "GET", "/x", turn=TurnKind.DELIVERY)
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(client.request(to_hole))
            await until(lambda: held.waiting == 2)
            unconfirmed = group.create_task(client.request(to_other))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not unconfirmed.done()
            client.backoffs.succeeded(c.name)
            assert await client.request(to_other) == {}
            assert not unconfirmed.done()
            held.over.set()
        assert unconfirmed.result() == {}


def part_of_an_answer(size: int, let_go: asyncio.Event) -> Lie:
    """Returns an answer of which so many bytes come at once and the rest never."""

    async def lie(request: web.BaseRequest, params: object) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(2 * size)})
        await response.prepare(request)
        await response.write(b" " * size)
        await let_go.wait()
        return response

    return lie


async def test_the_largest_exchange_gives_way_to_those_of_other_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that sends a lot, and then nothing, holds up nobody, and isn't blamed."""
    monkeypatch.setattr(client_module, "EXCHANGES_BYTES_MAX", 100_000)
    async with loopback() as net:
        a, b, c = [await net.peer(name) for name in ("a.test", "b.test", "c.test")]
        let_go = asyncio.Event()
        b.lies["/x"] = part_of_an_answer(80_000, let_go)
        c.lies["/x"] = answering(200, b'{"text":"%s"}' % (b"x" * 50_000))
        hanging = asyncio.ensure_future(failed(a, ServerRequest(b.name, "GET", "/x")))
        await until(lambda: a.client.bytes_under_way == 80_000)
        found = await a.client.get(c.name, "/x")
        assert len(found["text"]) == 50_000
        failure = await hanging
        assert (failure.kind, failure.is_retryable) == (FailureKind.BUSY, True)
        assert a.backoffs.of(b.name) is None
        assert a.client.bytes_under_way == 0
        let_go.set()


async def test_one_server_has_a_share_of_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "EXCHANGES_BYTES_PER_SERVER_MAX", 50_000)
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for size, sent in ((50_000, 0), (25_000, 25_000)):
            text = b'{"text":"%s"}' % (b"x" * (size - 11))
            b.lies["/x"] = answering(200, text)
            content = {"a": "x" * (sent - 8)} if sent else None
            assert await a.client.request(ServerRequest(b.name, "PUT", "/x", content))
            b.lies["/x"] = answering(200, text + b" ")
            refused = await failed(a, ServerRequest(b.name, "PUT", "/x", content))
            assert refused.kind is FailureKind.BUSY


@pytest.mark.parametrize(("digits", "is_kept"), [(0, True), (1, False)])
async def test_a_retry_after_of_too_many_digits_is_none(digits: int, is_kept: bool) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        header = "9" * (RETRY_AFTER_DIGITS_MAX + digits)
        b.lies["/x"] = answering(503, b"{}", **{"Retry-After": header})
        error = await failed(a, ServerRequest(b.name, "GET", "/x"))
        assert error.retry_after_s == (float(header) if is_kept else 0)


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_so_much_of_a_failures_text_is_kept(more: int) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        text = "e" * (FAILURE_CHARACTERS_MAX - len("404 M_NOT_FOUND ") + more)
        body = canonical_json.encode({"errcode": "M_NOT_FOUND", "error": text})
        b.lies["/x"] = answering(404, body)
        error = await failed(a, ServerRequest(b.name, "GET", "/x"))
        assert error.detail == f"404 M_NOT_FOUND {text[: len(text) - max(0, more)]}"
