"""Listeners: TLS, plain HTTP, start and stop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
import pytest
import trustme

from federation.events.canonical_json import JsonObject
from homeserver.api.http.app import HttpApp
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Auth, Route
from homeserver.api.http.server import CanNotListen, HttpServer, check_addresses
from homeserver.clock import SystemClock
from homeserver.config import Listener
from homeserver.metrics import ServerMetrics
from homeserver.rules.accounts.rate_limits import Limit, Rate
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.requester import Requester


class NoTokens:
    """Knows nobody."""

    async def requester(self, token: str) -> Requester:
        raise AssertionError(token)


async def address(request: Request) -> JsonObject:
    return {"address": request.address}


def edge(routes: Sequence[Route], rates: Mapping[Limit, Rate] | None = None) -> HttpApp:
    clock = SystemClock()
    return HttpApp(
        routes,
        tokens=NoTokens(),
        limiter=RateLimiter(clock, rates or {}),
        metrics=ServerMetrics(),
        clock=clock,
    )


def simple_edge() -> HttpApp:
    return edge([Route("GET", "/address", address, Auth.NONE)])


async def test_a_listener_with_a_certificate_speaks_tls_alone(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    paths = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    listeners = [
        Listener(address="127.0.0.1:0", tls_cert_path=paths[0], tls_key_path=paths[1]),
        Listener(address="127.0.0.1:0"),
    ]
    server = HttpServer(simple_edge(), listeners)
    await server.start()
    (_, tls_port), (_, plain_port) = server.addresses
    try:
        async with aiohttp.ClientSession() as session:
            url = f"https://localhost:{tls_port}/address"
            async with session.get(url, ssl=context, server_hostname="localhost") as response:
                assert response.status == 200
            async with session.get(f"http://127.0.0.1:{plain_port}/address") as response:
                assert response.status == 200
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{tls_port}/address")
    finally:
        await server.stop()


async def test_a_proxy_s_word_counts_only_where_it_is_trusted() -> None:
    for behind_proxy, seen in ((True, "192.0.2.7"), (False, "127.0.0.1")):
        listener = Listener(address="127.0.0.1:0", behind_proxy=behind_proxy)
        server = HttpServer(simple_edge(), [listener])
        await server.start()
        headers = {"X-Forwarded-For": "203.0.113.1, 192.0.2.7"}
        url = f"http://127.0.0.1:{server.addresses[0][1]}/address"
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, headers=headers) as response,
            ):
                assert await response.json() == {"address": seen}
        finally:
            await server.stop()


async def test_a_stop_ends_requests_that_wait_and_frees_the_port() -> None:
    waiting = asyncio.Event()

    async def endless(_request: Request) -> JsonObject:
        waiting.set()
        await asyncio.Event().wait()
        return {}

    server = HttpServer(
        edge([Route("GET", "/endless", endless, Auth.NONE)]), [Listener(address="127.0.0.1:0")]
    )
    await server.start()
    port = server.addresses[0][1]
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        call = group.create_task(refused(session, f"http://127.0.0.1:{port}/endless"))
        await asyncio.wait_for(waiting.wait(), 30)
        await asyncio.wait_for(server.stop(), 30)
        await call
    again = HttpServer(simple_edge(), [Listener(address=f"127.0.0.1:{port}")])
    await again.start()
    await again.stop()


async def refused(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(aiohttp.ClientError):
        await session.get(url)


async def test_an_address_in_use_is_an_os_error() -> None:
    first = HttpServer(simple_edge(), [Listener(address="127.0.0.1:0")])
    await first.start()
    second = HttpServer(simple_edge(), [Listener(address=f"127.0.0.1:{first.addresses[0][1]}")])
    try:
        with pytest.raises(OSError, match="in use"):
            await second.start()
    finally:
        await second.stop()
        await first.stop()


async def test_an_ipv6_host_has_one_bucket_for_all_its_addresses() -> None:
    limited = Route("GET", "/address", address, Auth.NONE, Limit.LOGIN)
    rates = {Limit.LOGIN: Rate(per_second=0.001, burst=1)}
    listener = Listener(address="127.0.0.1:0", behind_proxy=True)
    server = HttpServer(edge([limited], rates), [listener])
    await server.start()

    async def status(client: str) -> int:
        url = "http://{}:{}/address".format(*server.addresses[0])
        async with session.get(url, headers={"X-Forwarded-For": client}) as response:
            return response.status

    try:
        async with aiohttp.ClientSession() as session:
            assert await status("2001:db8:1:2::1") == 200
            assert await status("2001:db8:1:2:ffff::2") == 429
            assert await status("2001:db8:1:3::1") == 200
            assert await status("::ffff:192.0.2.7") == 200
            assert await status("192.0.2.7") == 429
    finally:
        await server.stop()


def test_an_address_in_use_is_found_and_free_ones_are_left_free() -> None:
    """The check names the address; of a free one it keeps nothing, so that it can be opened."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        used = "{}:{}".format(*taken.getsockname())
        with pytest.raises(CanNotListen, match=f"{used} can't be listened at"):
            check_addresses([Listener(address="127.0.0.1:0"), Listener(address=used)])
    check_addresses([Listener(address=used)])
    check_addresses([Listener(address=used)])


def test_an_address_of_another_machine_is_found() -> None:
    with pytest.raises(CanNotListen, match=r"192\.0\.2\.1"):
        check_addresses([Listener(address="192.0.2.1:0")])
