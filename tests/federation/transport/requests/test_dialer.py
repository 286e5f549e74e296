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
    is_public_address,
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


PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.88.98.255",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "203.0.112.255",
    "223.255.255.255",
    "2606:4700::1111",
    "2000::",
    "2001:200::",
    "2001:4860:4860::8888",
    "2400:cb00::",
    "2a00:1450::1",
    "3fff:1000::",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]
SPECIAL = [
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.8",
    "192.0.0.9",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:192.0.0.8",
    "::ffff:0:127.0.0.1",
    "::ffff:0:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b::c000:8",
    "64:ff9b:1::7f00:1",
    "64:ff9b:1::808:808",
    "64:ff9b:1:ffff::",
    "100::1",
    "100:0:0:1::1",
    "1fff::",
    "4000::",
    "5f00::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:1ff:ffff::",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "3fff:fff::",
    "fc00::1",
    "fd00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize(
    ("address", "is_public"), [*((one, True) for one in PUBLIC), *((one, False) for one in SPECIAL)]
)
def test_which_addresses_need_permission(address: str, is_public: bool) -> None:
    assert is_public_address(address) is is_public


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
