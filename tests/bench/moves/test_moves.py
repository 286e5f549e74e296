"""Figures: how often control moves from one file to another, for one message that a user sends and
for one transaction with one message of another server.

A move is a call of a Python function whose code is in another file of `federation` or `homeserver`
than its caller's. A coroutine that goes on after a wait isn't called again. All counts that the
server does until it is at rest: the answer, the commit, and what follows the commit.
`FREEHOLD_MOVES=1` lists them.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import os
import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from statistics import median_low
from types import CodeType, FrameType
from typing import Any, TypeAlias
from urllib.parse import quote

import pytest
import trustme

import federation
import homeserver
from tests.conftest import BackgroundLoop, drop_database
from tests.hostile.clients.running_server import Server, User, running
from tests.hostile.peers.scripted_peer import V1, PeerRoom, ScriptedPeer, now_ms, scripted_peer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

ROOTS = tuple(f"{Path(str(one.__file__)).parent}/" for one in (federation, homeserver))
TOP = Path(ROOTS[0]).parent
WARM, TIMES = 20, 15
UNTIL_REST_S = 0.1
RESUMES = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

Moves: TypeAlias = "Counter[tuple[str, str]]"
Operation: TypeAlias = Callable[[], Awaitable[int]]
"""Something that a server is asked for; returns the status."""


@cache
def start_of(code: CodeType) -> int:
    """Return the offset at which a coroutine or generator begins when it first runs.

    A function that is neither has -1.
    """
    if not code.co_flags & RESUMES:
        return -1
    steps = list(dis.get_instructions(code))
    made = next(i for i, one in enumerate(steps) if one.opname == "RETURN_GENERATOR")
    return next(one.offset for one in steps[made:] if one.opname == "RESUME")


@contextmanager
def counted_moves() -> Iterator[Moves]:
    """Count the moves of this thread, by the caller's file and the called function."""
    moves: Moves = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        caller = frame.f_back
        if event != "call" or caller is None:
            return
        before, code = caller.f_code.co_filename, frame.f_code
        if before == code.co_filename:
            return
        if not (before.startswith(ROOTS) and code.co_filename.startswith(ROOTS)):
            return
        start = start_of(code)
        if start < 0 or frame.f_lasti <= start:
            moves[before, f"{code.co_filename}: {code.co_qualname}"] += 1

    sys.setprofile(note)
    try:
        yield moves
    finally:
        sys.setprofile(None)


async def moves_of(prepare: Callable[[int], Operation]) -> Moves:
    """Return the moves of an operation in the median, once everything is warm."""
    for number in range(WARM):
        assert await prepare(number)() == 200
    await asyncio.sleep(UNTIL_REST_S)
    found: list[Moves] = []
    for number in range(WARM, WARM + TIMES):
        operation = prepare(number)
        with counted_moves() as moves:
            assert await operation() == 200
            await asyncio.sleep(UNTIL_REST_S)
        found.append(moves)
    total = median_low([one.total() for one in found])
    return next(one for one in found if one.total() == total)


def report(title: str, moves: Moves) -> None:
    sys.stdout.write(f"{title}: {moves.total()} moves between files\n")
    if os.environ.get("FREEHOLD_MOVES"):
        for (before, after), times in sorted(moves.items()):
            line = f"    {times} {before} -> {after}".replace(f"{TOP}/", "")
            sys.stdout.write(f"{line}\n")


def send(server: Server, by: User, room_id: str, number: int) -> Operation:
    """Return the sending of a message by a user."""

    async def ask() -> int:
        path = f"/rooms/{quote(room_id)}/send/m.room.message/t{number}"
        reply = await server.call("PUT", path, {"msgtype": "m.text", "body": "x"}, by=by)
        return reply.status

    return ask


def receive(peer: ScriptedPeer, room: PeerRoom, number: int) -> Operation:
    """Return the sending of a transaction by a server; it was signed before."""
    content: dict[str, Any] = {
        "origin": peer.name,
        "origin_server_ts": now_ms(),
        "pdus": [room.event(advance=True)],
        "edus": [],
    }
    exchange = peer.prepare("PUT", f"{V1}/send/t{number}", content)

    async def ask() -> int:
        return (await exchange()).status

    return ask


async def measure(url: str) -> None:
    """Report both figures."""
    authority = trustme.CA()
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(scripted_peer("peer.example", authority))
        overrides = {"address_overrides": {peer.name: peer.address}}
        server = await stack.enter_async_context(running(url, authority, federation=overrides))
        peer.target = server.tls_address
        alice = await server.register("alice")
        own = await server.create_room(alice)
        report("a message sent", await moves_of(partial(send, server, alice, own)))
        shared = await peer.join(await server.create_room(alice, preset="public_chat"))
        report("a transaction received", await moves_of(partial(receive, peer, shared)))


def test_moves_between_files(background_loop: BackgroundLoop, postgres_cluster: Any) -> None:
    name = f"b_{secrets.token_hex(8)}"
    url = background_loop.run(postgres_cluster.ensure_database(name))
    sys.stdout.write("\n")
    asyncio.run(measure(url))
    background_loop.run(drop_database(postgres_cluster, name))
