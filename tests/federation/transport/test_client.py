"""Requests to other servers: signed, bounded, told apart by kind of failure."""

import pytest
from aiohttp import web

from federation.events.canonical_json import JsonObject
from federation.transport.client import (
    FailureKind,
    FederationError,
    Request,
    build_target,
    encode_content,
)
from federation.transport.dialer import Bounds
from tests.federation.transport.loopback import Lie, Peer, loopback


async def failed(peer: Peer, request: Request) -> FederationError:
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
        error = await failed(a, Request(b.name, "GET", "/x", bounds=Bounds(bytes_max=1_000)))
        assert (error.kind, error.is_retryable) == (kind, is_retryable)
        assert (a.backoffs.wait_s(b.name) > 0) is is_retryable
        assert error.server == b.name


async def test_a_wait_that_the_peer_asks_for_is_kept() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.lies["/x"] = answering(503, b"{}", **{"Retry-After": "77"})
        await failed(a, Request(b.name, "GET", "/x"))
        assert a.backoffs.wait_s(b.name) == 77
        error = await failed(a, Request(b.name, "GET", "/x"))
        assert error.kind is FailureKind.BACKING_OFF
        b.lies["/x"] = answering(200, b'{"y":1}')
        request = Request(b.name, "GET", "/x", despite_backoff=True)
        assert await a.client.request(request) == {"y": 1}
        assert a.backoffs.wait_s(b.name) == 0


async def test_a_transaction_that_is_not_taken_counts_whatever_the_status() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for status, counts in ((404, True), (413, False)):
            b.lies["/x"] = answering(status, b"{}")
            await failed(a, Request(b.name, "PUT", "/x", {}, must_succeed=True))
            assert (a.backoffs.wait_s(b.name) > 0) is counts
            a.backoffs.succeeded(b.name)


async def test_private_addresses_need_an_override() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        for name in ("127.0.0.1:8448", "[::1]:8448", "localhost:8448"):
            error = await failed(a, Request(type(b.name)(name), "GET", "/x"))
            assert error.kind is FailureKind.ADDRESS
            assert error.is_retryable


async def test_get_is_a_request_without_body() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        answer: JsonObject = await a.client.get(b.name, "/_matrix/federation/v1/version")
        assert answer == {"server": {"name": "Freehold", "version": "0.1.0"}}
        assert a.client.backoffs is a.backoffs
