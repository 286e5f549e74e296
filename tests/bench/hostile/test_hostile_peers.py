"""Figures: what hostile peers cost the event loop, others' time, and memory.

The loop's cost is CPU time of its thread. Those who attack with bodies and answers run in threads
of their own, in this process.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from contextlib import AsyncExitStack
from statistics import median

import pytest
import trustme

from federation.events.signing import SigningKey
from federation.limits import FETCHES_PER_ADDRESS_MAX
from local_postgres import EmbeddedCluster
from tests.bench.joins.measuring import measured
from tests.conftest import BackgroundLoop, drop_database
from tests.hostile.clients.running_server import Reply, running
from tests.hostile.loop_steps import LoopSteps, counted_steps
from tests.hostile.peers.conftest import World
from tests.hostile.peers.long_answers import STATES, lure
from tests.hostile.peers.scripted_peer import scripted_peer
from tests.hostile.peers.test_fetching import NAMES, PROFILE, Hole, invented
from tests.hostile.peers.test_parsing import FORGED, SEND, exchange, header, request

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

TIMES = 5
JOIN_BYTES = 50_000_000


def report(line: str) -> None:
    sys.stdout.write(line + "\n")


async def cost_of(world: World, sent: bytes) -> LoopSteps:
    """What one request costs the loop."""
    with counted_steps() as steps:
        await asyncio.to_thread(exchange, world.server.tls_address, sent)
    return steps


async def bodies(world: World) -> None:
    """Bodies of 10 MB, without a key and with a signature that is forged."""
    assert (await world.evil.send()).status == 200, "its key is known from now on"
    for title, authorization in (
        ("without a key", ""),
        ("with a forged signature", header(world, b"{}")),
    ):
        for kind, body in FORGED.items():
            sent = request("PUT", SEND, authorization, body)
            costs = [await cost_of(world, sent) for _ in range(TIMES)]
            report(
                f"10 MB {title}, {kind:<8}"
                f" {1000 * median(one.total_s for one in costs):5.1f} ms of the loop,"
                f" at most {1000 * max(one.longest_s for one in costs):4.1f} ms at a time"
            )


async def invented_origins(world: World, hole: Hole) -> None:
    """An honest peer's request beside others whose origins don't exist, of the same address."""
    await world.other.join(await world.room())
    false = SigningKey.generate(b"\x66" * 32, "false")

    async def ask(number: int) -> Reply:
        return await world.evil.request("GET", PROFILE, origin=invented(number), key=false)

    async def honest() -> float:
        started_s = time.perf_counter()
        assert (await world.other.request("GET", PROFILE)).status == 200
        return time.perf_counter() - started_s

    alone_s = [await honest() for _ in range(TIMES)]
    tasks = [asyncio.ensure_future(ask(number)) for number in range(NAMES)]
    while hole.taken < FETCHES_PER_ADDRESS_MAX:
        await asyncio.sleep(0.001)
    beside_s = [await honest() for _ in range(TIMES)]
    await hole.let_go()
    await asyncio.gather(*tasks)
    report(
        f"an honest request alone {1000 * median(alone_s):.0f} ms; beside {NAMES} of invented"
        f" origins, sent from the same loop: {1000 * max(beside_s):.0f} ms at most"
    )


async def requests(url: str) -> None:
    """All figures of requests that come in."""
    authority, hole = trustme.CA(), Hole()
    async with AsyncExitStack() as stack:
        evil = await stack.enter_async_context(scripted_peer("evil.example", authority, 7))
        other = await stack.enter_async_context(scripted_peer("other.example", authority, 8))
        listening = await asyncio.start_server(hole.swallow, "127.0.0.1", 0)
        stack.callback(listening.close)
        hole.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        overrides = {peer.name: peer.address for peer in (evil, other)}
        overrides |= {invented(number): hole.address for number in range(NAMES)}
        server = await stack.enter_async_context(
            running(url, authority, federation={"address_overrides": overrides})
        )
        for peer in (evil, other):
            peer.target = server.tls_address
        world = World(server, await server.register("alice"), evil, other)
        await bodies(world)
        await invented_origins(world, hole)


async def joins(url: str, postmaster: int, background_loop: BackgroundLoop, kind: str) -> None:
    """A join whose answer is long, the first of a server."""
    async with lure(url, background_loop) as lured:
        room_id = lured.prepare(kind, JOIN_BYTES)
        with counted_steps() as steps:
            async with measured(postmaster) as cost:
                reply = await lured.join(room_id)
        report(
            f"join, answer of {JOIN_BYTES // 1_000_000} MB, {kind:<11}{reply.status}:"
            f" memory +{cost.memory_mb:4.0f} MB, the loop held for at most"
            f" {1000 * steps.longest_s:3.0f} ms of CPU, {1000 * steps.total_s:4.0f} ms in all;"
            f" {cost.cpu_s:.1f} s of CPU, {cost.wall_s:.1f} s"
        )


def test_hostile_peers(background_loop: BackgroundLoop, postgres_cluster: EmbeddedCluster) -> None:
    report(f"\nhostile peers; load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    for kind in (None, *STATES):
        name = f"b_{secrets.token_hex(8)}"
        url = background_loop.run(postgres_cluster.ensure_database(name))
        if kind is None:
            asyncio.run(requests(url))
        else:
            asyncio.run(joins(url, postgres_cluster.pid, background_loop, kind))
        background_loop.run(drop_database(postgres_cluster, name))
