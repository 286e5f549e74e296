"""Figures: media, accounts, the user directory and first syncs beside another homeserver.

`HOMESERVERS` names two target files of running ones (`running`), the other one's first. They take
turns, A B B A, in one run: what the machine does besides falls on both. Counted is the CPU of the
server's processes and of its PostgreSQL, each read once the server is quiet again.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from tests.bench.beside.running import Homeserver

TARGETS = os.environ.get("HOMESERVERS", "").split()
pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not TARGETS, reason="HOMESERVERS names no running homeservers"),
]
ROUNDS = 2
QUIET_MS = 20
USERS, ROOMS = 400, 100
Work = Callable[[Homeserver, int], Awaitable[object]]
Part = Callable[[list[Homeserver]], Awaitable[None]]


async def _settle(server: Homeserver) -> tuple[float, float]:
    """Return what was spent, once hardly any more is."""
    before = server.spent_ms()
    while True:
        await asyncio.sleep(0.5)
        spent = server.spent_ms()
        if sum(spent) - sum(before) <= QUIET_MS:
            return spent
        before = spent


async def _in_turns(servers: list[Homeserver], name: str, times: int, work: Work) -> None:
    """Measure `times` operations of each server, several times."""
    for server in servers:
        await work(server, 0)
    for number in range(ROUNDS):
        for server in (*servers, *reversed(servers)):
            before = await _settle(server)
            for one in range(1, times + 1):
                await work(server, number * times + one)
            after = await _settle(server)
            cost = ((after[0] - before[0]) / times, (after[1] - before[1]) / times)
            server.costs.setdefault(name, []).append(cost)
    told = [
        [sum(part) / len(part) for part in zip(*one.costs[name], strict=True)] for one in servers
    ]
    (other, others_database), (ours, our_database) = told
    ratio = (other + others_database) / max(ours + our_database, 0.01)
    sys.stdout.write(
        f"| {name} | {times * ROUNDS * 2} | {other:.2f} + {others_database:.2f}"
        f" | {ours:.2f} + {our_database:.2f} | **{ratio:.1f}** |\n"
    )
    sys.stdout.flush()


def _photograph(seed: int) -> bytes:
    """A JPEG picture of 1600 by 1200 with the detail of a photograph."""
    chance = random.Random(seed)
    noise = Image.frombytes("RGB", (400, 300), chance.randbytes(3 * 400 * 300))
    out = io.BytesIO()
    noise.resize((1600, 1200), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


async def _upload(server: Homeserver, data: bytes) -> str:
    answer = await server.call("POST", "media/v3/upload", data)
    return str(answer["content_uri"]).removeprefix("mxc://")


async def _media(servers: list[Homeserver]) -> None:
    files: dict[str, list[str]] = {}
    large = os.urandom(1_000_000)
    pictures = [_photograph(seed) for seed in range(10)]
    size = {"width": "800", "height": "600", "method": "scale"}

    async def upload(server: Homeserver, _number: int) -> None:
        files.setdefault(server.name, []).append(await _upload(server, os.urandom(16) + large[16:]))

    async def download(server: Homeserver, number: int) -> None:
        mine = files[server.name]
        path = f"client/v1/media/download/{mine[number % len(mine)]}"
        assert len(await server.call("GET", path)) == len(large)

    async def thumbnail_of_new(server: Homeserver, number: int) -> None:
        picture = pictures[number % len(pictures)] + secrets.token_bytes(16)
        files[f"{server.name} picture"] = [await _upload(server, picture)]
        await thumbnail(server, number)

    async def thumbnail(server: Homeserver, _number: int) -> None:
        [picture] = files[f"{server.name} picture"]
        await server.call("GET", f"client/v1/media/thumbnail/{picture}", query=size)

    await _in_turns(servers, "upload of 1 MB", 50, upload)
    await _in_turns(servers, "download of 1 MB", 50, download)
    await _in_turns(servers, "picture of 0.6 MB: upload, first thumbnail", 15, thumbnail_of_new)
    await _in_turns(servers, "thumbnail that is there", 100, thumbnail)


async def _accounts(servers: list[Homeserver]) -> None:
    run = secrets.token_hex(4)
    names: dict[str, list[str]] = {}

    async def register(server: Homeserver, _number: int) -> None:
        mine = names.setdefault(server.name, [])
        mine.append(f"r{run}{len(mine)}")
        await server.register(mine[-1])

    async def log_in(server: Homeserver, number: int) -> None:
        mine = names[server.name]
        await server.log_in(mine[number % len(mine)])

    await _in_turns(servers, "register, cheapest hash", 50, register)
    await _in_turns(servers, "log-in, cheapest hash", 50, log_in)


async def _directory(servers: list[Homeserver]) -> None:
    run = secrets.token_hex(4)
    for server in servers:
        for number in range(USERS):
            await server.register(f"person{number}of{run}")
        created = await server.call("POST", "client/v3/createRoom", {"preset": "public_chat"})
        for number in range(1, 6):
            token = await server.register(f"joined{number}of{run}")
            await server.call("POST", f"client/v3/join/{created['room_id']}", {}, token=token)

    async def search(server: Homeserver, number: int) -> None:
        body = {"search_term": f"joined{number % 5 + 1}of{run}", "limit": 10}
        found = await server.call("POST", "client/v3/user_directory/search", body)
        assert found["results"]

    for server in servers:
        await _settle(server)
    await _in_turns(servers, f"search among {USERS} users", 100, search)


async def _syncs(servers: list[Homeserver]) -> None:
    tokens: dict[str, str] = {}
    for server in servers:
        tokens[server.name] = await server.register(f"syncs{secrets.token_hex(4)}")
        for number in range(ROOMS):
            body = {"preset": "public_chat", "name": f"Room {number}"}
            created = await server.call("POST", "client/v3/createRoom", body)
            path = f"client/v3/join/{created['room_id']}"
            await server.call("POST", path, {}, token=tokens[server.name])
            for text in range(3):
                path = f"client/v3/rooms/{created['room_id']}/send/m.room.message"
                path = f"{path}/{secrets.token_hex(8)}"
                body = {"msgtype": "m.text", "body": f"message {text}"}
                await server.call("PUT", path, body)

    async def sync(server: Homeserver, number: int) -> None:
        query = {"timeout": str(number)}  # a repeated one is answered from a cache by some
        token = tokens[server.name]
        answer = await server.call("GET", "client/v3/sync", token=token, query=query)
        assert len(answer["rooms"]["join"]) == ROOMS

    await _in_turns(servers, f"first sync of {ROOMS} rooms, 3 unread each", 5, sync)


@pytest.mark.parametrize("part", [_media, _accounts, _directory, _syncs])
async def test_beside_another_homeserver(part: Part) -> None:
    async with aiohttp.ClientSession() as session:
        servers = [Homeserver(Path(target), session) for target in TARGETS]
        for server in servers:
            server.token = await server.register(f"measures{secrets.token_hex(4)}")
        named = ": CPU ms (server + database) | ".join(one.name for one in servers)
        sys.stdout.write(
            f"\n| operation | times | {named}: CPU ms (server + database) | **ratio of CPU** |\n"
            "| --- | ---: | ---: | ---: | ---: |\n"
        )
        await part(servers)
