"""Peers that make the server ask others, which never answer: honest peers don't wait for them.

Spec: server-server API, "Retrieving server keys".
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
import trustme

from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.limits import (
    FETCHES_PER_ADDRESS_MAX,
    NOTARY_FETCHES_BURST,
    NOTARY_FETCHES_PER_REQUEST_MAX,
)
from federation.transport.events import event_fetcher
from federation.transport.requests import dialer, keyring
from federation.transport.requests.dialer import Bounds
from tests.hostile.clients.running_server import Reply, running
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, Http, ScriptedPeer, scripted_peer

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = 400
PROFILE = f"{V1}/query/profile?user_id=%40alice%3Ahere.example"
QUERY = "/_matrix/key/v2/query"


@dataclass
class Hole:
    """A socket that takes connections and says nothing."""

    address: str = ""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    taken: int = 0

    async def let_go(self) -> None:
        """Breaks all connections."""
        for writer in self.writers:
            writer.close()
        self.writers.clear()

    async def swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.taken += 1
        self.writers.append(writer)
        await reader.read()
        writer.close()


def invented(number: int) -> ServerName:
    """A name that leads to the hole."""
    return ServerName(f"h{number}.hole.example")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def siege(module_database: str) -> AsyncIterator[tuple[World, Hole]]:
    """As `world`, and names that lead to a hole. Key requests last as long as the test."""
    authority, hole = trustme.CA(), Hole()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyring, "_BOUNDS", Bounds(timeout_s=1_000))
        patch.setattr(keyring, "KEY_REFETCH_S_MIN", 0.0)
        patch.setattr(dialer, "CONNECT_S_MAX", 1_000.0)
        async with AsyncExitStack() as stack:
            evil = await stack.enter_async_context(scripted_peer("evil.example", authority, 7))
            other = await stack.enter_async_context(scripted_peer("other.example", authority, 8))
            listening = await asyncio.start_server(hole.swallow, "127.0.0.1", 0)
            stack.callback(listening.close)
            hole.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            overrides = {peer.name: peer.address for peer in (evil, other)}
            overrides |= {invented(number): hole.address for number in range(NAMES)}
            server = await stack.enter_async_context(
                running(module_database, authority, federation={"address_overrides": overrides})
            )
            for peer in (evil, other):
                peer.target = server.tls_address
            yield World(server, await server.register("alice"), evil, other), hole
            await hole.let_go()


def rotate(peer: ScriptedPeer) -> None:
    """A new key, which the real server doesn't know yet."""
    peer.key = SigningKey.generate(secrets.token_bytes(32), f"p{secrets.token_hex(4)}")


async def until(condition: Callable[[], bool]) -> None:
    """Waits until it holds; far longer than it takes on the slowest machine."""
    async with asyncio.timeout(100):
        while not condition():
            await asyncio.sleep(0.01)


async def test_invented_origins_do_not_delay_an_honest_peer(siege: tuple[World, Hole]) -> None:
    """400 requests, each of an invented origin whose keys can't be had, from the very address of
    the honest peer, whose new key has to be fetched meanwhile."""
    world, hole = siege
    await world.other.join(await world.room())
    false = SigningKey.generate(b"\x66" * 32, "false")

    async def ask(number: int) -> Reply:
        return await world.evil.request("GET", PROFILE, origin=invented(number), key=false)

    tasks = [asyncio.ensure_future(ask(number)) for number in range(NAMES)]
    try:
        await until(lambda: hole.taken == FETCHES_PER_ADDRESS_MAX)
        rotate(world.other)
        async with asyncio.timeout(100):
            honest = await world.other.request("GET", PROFILE)
        assert honest.status == 200, honest
        await until(lambda: sum(task.done() for task in tasks) == NAMES - FETCHES_PER_ADDRESS_MAX)
        refused = {(task.result().status, task.result().errcode) for task in tasks if task.done()}
        assert refused == {(429, "M_LIMIT_EXCEEDED")}
        assert hole.taken == FETCHES_PER_ADDRESS_MAX, "those at the hole are still there"
    finally:
        await hole.let_go()
    replies = await asyncio.gather(*tasks)
    assert {reply.status for reply in replies} == {401, 429}
    await world.is_up()


async def test_events_with_unknown_parents_do_not_hold_up_a_room(
    siege: tuple[World, Hole], monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 of them, of a peer that hangs when it is asked for what they lack. An honest peer's
    event, which lacks its parent too, is seen."""
    world, _ = siege
    for name in ("_EVENT_BOUNDS", "_MISSING_BOUNDS", "_IDS_BOUNDS", "_STATE_BOUNDS"):
        monkeypatch.setattr(event_fetcher, name, Bounds(timeout_s=1_000))
    room_id = await world.room()
    evil, other = await world.evil.join(room_id), await world.other.join(room_id)
    over = asyncio.Event()

    async def hang(path: str, body: object) -> Http:
        await over.wait()
        return Http(503)

    for part in ("get_missing_events", "/event/", "event_auth", "state"):
        world.evil.answers[part] = hang
    for start in range(0, 300, 50):
        unknown = [
            evil.event(prev_events=[f"${number:043d}"], content={"n": number})
            for number in range(start, start + 50)
        ]
        assert (await world.evil.send(unknown)).status == 200
    parent = other.event(advance=True)
    event = other.event(advance=True)
    world.other.answers["get_missing_events"] = lambda path, body: {"events": [parent]}
    assert (await world.other.send([event])).status == 200

    async def is_seen() -> bool:
        return {other.id(parent), other.id(event)} <= await world.seen_ids(room_id)

    async with asyncio.timeout(100):
        while not await is_seen():
            await asyncio.sleep(0.05)
    over.set()
    world.evil.answers.clear()
    world.other.answers.clear()
    await world.is_up()


async def test_a_key_query_makes_a_bounded_number_of_fetches(siege: tuple[World, Hole]) -> None:
    world, hole = siege
    before = hole.taken
    asked: dict[str, object] = {invented(number): {} for number in range(100, 149)}
    query = asyncio.ensure_future(world.server.call("POST", QUERY, {"server_keys": asked}))
    await until(lambda: hole.taken == before + NOTARY_FETCHES_PER_REQUEST_MAX)
    mine: dict[str, object] = {"server_keys": {"here.example": {}}}
    reply = await world.server.call("POST", QUERY, mine)
    assert (reply.status, len(reply.body["server_keys"])) == (200, 1)
    await hole.let_go()
    assert (await query).body == {"server_keys": []}
    assert hole.taken == before + NOTARY_FETCHES_PER_REQUEST_MAX
    statuses = []
    for number in range(150, 150 + int(NOTARY_FETCHES_BURST)):
        one = asyncio.ensure_future(world.server.call("GET", f"{QUERY}/{invented(number)}"))
        while not one.done():
            await hole.let_go()
            await asyncio.sleep(0)
        statuses.append((await one).status)
    assert statuses[0] == 200
    assert statuses[-1] == 429
