"""The dialer against servers that misbehave, and against private addresses."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import replace

import pytest
from aiohttp import web

from federation.limits import READ_AT_ONCE_BYTES_MAX
from federation.transport.requests.dialer import (
    Bounds,
    Dialer,
    DialError,
    DialFailure,
    Endpoint,
    Outgoing,
    Sink,
    build_tls_context,
)
from tests.federation.transport.loopback import Loopback, Peer, loopback

GET = Outgoing("GET", "/lie", {})
BOUNDS = Bounds(timeout_s=30, bytes_max=1_000)


def endpoint_of(net: Loopback, peer: Peer) -> Endpoint:
    port = int(net.addresses[peer.name].rpartition(":")[2])
    return Endpoint(("127.0.0.1",), port, peer.name, peer.name, may_be_private=True)


async def failure(dialer: Dialer, endpoint: Endpoint, bounds: Bounds = BOUNDS) -> DialFailure:
    with pytest.raises(DialError) as caught:
        await dialer.exchange(endpoint, GET, bounds)
    return caught.value.kind


async def test_private_addresses_are_refused_without_permission() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")
        port = endpoint_of(net, peer).port
        endpoint = Endpoint(("127.0.0.1", "::1"), port, "a.test", "a.test")
        assert await failure(peer.dialer, endpoint) is DialFailure.ADDRESS
        free = Dialer(net.client_tls, allow_private=True)
        answer = await free.exchange(
            endpoint, Outgoing("GET", "/_matrix/federation/v1/version", {}), BOUNDS
        )
        await free.close()
        assert answer.status == 200


async def test_a_certificate_for_another_name_is_refused() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")
        port = endpoint_of(net, peer).port
        endpoint = Endpoint(("127.0.0.1",), port, "b.test", "b.test", may_be_private=True)
        assert await failure(peer.dialer, endpoint) is DialFailure.CERTIFICATE


async def test_an_unknown_authority_is_refused() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")
        dialer = Dialer(build_tls_context([], verify=True))
        assert await failure(dialer, endpoint_of(net, peer)) is DialFailure.CERTIFICATE
        await dialer.close()


def test_verification_can_be_switched_off_for_a_lab() -> None:
    assert build_tls_context([], verify=False).verify_mode is ssl.CERT_NONE
    assert build_tls_context([], verify=True).verify_mode is ssl.CERT_REQUIRED


async def test_nobody_listening_is_a_refusal() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")
        endpoint = endpoint_of(net, peer)
        await peer.runner.cleanup()
        assert await failure(peer.dialer, endpoint) is DialFailure.REFUSED


async def test_a_connection_that_breaks_is_not_a_refusal() -> None:
    """The server has the request, and may have done what it asks for."""
    async with loopback() as net:
        peer = await net.peer("a.test")

        async def broken(request: web.BaseRequest, _: object) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        peer.lies["/lie"] = broken
        assert await failure(peer.dialer, endpoint_of(net, peer)) is DialFailure.BROKEN


async def test_answers_are_read_up_to_the_limit() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")
        size = BOUNDS.bytes_max

        async def declared(request: web.BaseRequest, _: object) -> web.StreamResponse:
            return web.Response(body=b"x" * size)

        async def chunked(request: web.BaseRequest, _: object) -> web.StreamResponse:
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            for start in range(0, size, 100):
                await response.write(b"x" * min(100, size - start))
            await response.write_eof()
            return response

        for lie in (declared, chunked):
            peer.lies["/lie"] = lie
            size = BOUNDS.bytes_max
            answer = await peer.dialer.exchange(endpoint_of(net, peer), GET, BOUNDS)
            assert len(answer.body) == size
            size += 1
            assert await failure(peer.dialer, endpoint_of(net, peer)) is DialFailure.TOO_LARGE


async def test_an_answer_is_read_in_parts_of_so_many_bytes() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")
        size = 3 * READ_AT_ONCE_BYTES_MAX + 1

        async def large(request: web.BaseRequest, _: object) -> web.StreamResponse:
            return web.Response(body=b"x" * size)

        peer.lies["/lie"] = large
        parts: list[int] = []

        async def sink(part: bytes) -> None:
            parts.append(len(part))

        headers: list[Mapping[str, str]] = []

        def receiver(given: Mapping[str, str]) -> Sink:
            headers.append(given)
            return sink

        await peer.dialer.exchange(endpoint_of(net, peer), GET, Bounds(bytes_max=size), receiver)
        assert [one["content-length"] for one in headers] == [str(size)], "once, before the body"
        assert sum(parts) == size
        assert 0 < min(parts) <= max(parts) <= READ_AT_ONCE_BYTES_MAX


async def test_an_endless_slow_body_ends_at_the_time_limit() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")

        async def drip(request: web.BaseRequest, _: object) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)

        peer.lies["/lie"] = drip
        short = replace(BOUNDS, timeout_s=0.3)
        assert await failure(peer.dialer, endpoint_of(net, peer), short) is DialFailure.TIMEOUT


async def test_a_body_that_stops_coming_ends_after_the_idle_time() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")
        over = asyncio.Event()

        async def stall(request: web.BaseRequest, _: object) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x")
            await over.wait()
            return response

        peer.lies["/lie"] = stall
        idle = Bounds(timeout_s=10_000, idle_s=0.3)
        with pytest.raises(DialError, match=r"nothing came for 0\.3 s"):
            await peer.dialer.exchange(endpoint_of(net, peer), GET, idle)
        over.set()


async def test_redirects_are_not_followed() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")

        async def elsewhere(request: web.BaseRequest, _: object) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": "/_matrix/federation/v1/version"})

        peer.lies["/lie"] = elsewhere
        answer = await peer.dialer.exchange(endpoint_of(net, peer), GET, BOUNDS)
        assert answer.status == 302


async def test_the_request_target_goes_out_byte_for_byte() -> None:
    async with loopback() as net:
        peer = await net.peer("a.test")
        seen: list[tuple[str, str]] = []

        async def note(request: web.BaseRequest, _: object) -> web.StreamResponse:
            seen.append((request.raw_path, request.headers["Host"]))
            return web.Response(body=b"{}")

        peer.lies["/lie"] = note
        target = "/lie/%21a%24%3A%2F%2b?v=%24x&y=a%20b"
        await peer.dialer.exchange(endpoint_of(net, peer), Outgoing("GET", target, {}), BOUNDS)
        assert seen == [(target, "a.test")]
