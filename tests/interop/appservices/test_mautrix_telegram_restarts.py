"""The server is killed (kill -9) while mautrix-telegram, unmodified, relays: each message arrives
once, on both sides, also what was said on Telegram while the server was down."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.faults.test_appservice_transactions import KilledServer
from tests.hostile.clients.running_server import SERVER, Requests
from tests.interop.appservices.bridges import BridgesUnavailable
from tests.interop.appservices.person import Person
from tests.interop.appservices.telegram.bridge import (
    Bridge,
    ensure_mautrix_telegram,
    log_in,
    telegram,
)

pytestmark = pytest.mark.processes

IAN, GARDEN = 2002, 500
LIVES = 2


async def test_a_killed_server_loses_and_repeats_nothing(postgres_url: str, tmp_path: Path) -> None:
    try:
        ensure_mautrix_telegram()
    except BridgesUnavailable as error:
        pytest.skip(str(error))
    bridge = Bridge(tmp_path, SERVER, f"@alice:{SERVER}")
    bridge.prepare()
    ours, theirs = list[str](), list[str]()
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(
            telegram(tmp_path, bridge.key, bridge.telegram_port)
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        server = KilledServer(tmp_path, postgres_url, *bridge.registrations)
        await server.start(session)
        stack.push_async_callback(server.kill)
        requests = Requests(server.url, session)
        alice = Person(requests, await requests.register("alice"))
        await network.ask("say", chat=GARDEN, by=IAN, text="before")
        stack.push_async_callback(bridge.kill)
        await bridge.start(server.url)
        scene = await log_in(alice, bridge, network)
        group = await scene.room_named("Garden")
        await alice.until_said(group, "before")
        for life in range(LIVES):
            for number in range(5):
                ours.append(f"ours {life} {number}")
                await alice.say(group, ours[-1])
            await server.kill()  # in the middle of what is being sent, or before it
            for number in range(5):
                theirs.append(f"theirs {life} {number}")
                await network.ask("say", chat=GARDEN, by=IAN, text=theirs[-1])
            await server.start(session)
            await alice.until_said(group, theirs[-1])
        for text in ours:
            await network.until_seen("message", text=text)
        seen = [one["text"] for one in await network.seen("message")]
        assert sorted(one for one in seen if one.startswith("ours ")) == ours
        said = [one["content"].get("body", "") for one in await alice.events(group)]
        assert [one for one in said if one.startswith("theirs ")] == theirs
