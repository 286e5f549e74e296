"""heisenbridge, unmodified: it starts, makes rooms and users, and relays both ways."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import trustme

from tests.hostile.clients.running_server import free_port, running
from tests.interop.appservices.bridges import (
    PYTHON,
    BridgesUnavailable,
    ensure_bridges,
    irc_person,
    process,
    until_said,
)
from tests.interop.appservices.irc_server import irc_server
from tests.interop.appservices.person import Person

pytestmark = pytest.mark.processes

BOT = "@heisenbridge:here.example"


async def test_it_bridges_a_channel(postgres_url: str, tmp_path: Path) -> None:
    """From the registration that it writes to messages of both networks."""
    try:
        ensure_bridges()
    except BridgesUnavailable as error:
        pytest.skip(str(error))
    bridge_port = free_port()
    registration = tmp_path / "registration.yaml"
    arguments = ["-c", str(registration), "-l", "127.0.0.1", "-p", str(bridge_port)]
    made = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "heisenbridge", *arguments, "--generate"
    )
    assert await made.wait() == 0
    table = {"registrations": [str(registration)]}
    async with (
        running(postgres_url, trustme.CA(), appservices=table) as server,
        irc_server() as irc,
        irc_person(irc.port, "ian", "#chat") as ian,
    ):
        alice = Person(server, await server.register("alice"))
        bridge = process(
            tmp_path, "heisenbridge", "-v", *arguments, "-o", alice.user.user_id, server.url
        )
        async with bridge as log:
            await until_said(log, "bridge is now running")
            control = await alice.enter("")  # the owner is invited to a room to command it by
            for command in (
                "addnetwork test",
                f"addserver test 127.0.0.1 {irc.port}",
                "open test",
            ):
                await alice.say(control, command)
            network = await alice.enter("test")
            for command in ("nick alice", "connect"):
                await alice.say(network, command)
            await alice.until_told(network, "No message of the day", BOT)
            await alice.say(network, "join #chat")
            channel = await alice.enter("#chat")
            await alice.say(channel, "from Matrix")
            await ian.until(
                lambda line: "PRIVMSG #chat" in line and "from Matrix" in line, "alice's message"
            )
            ian.send("PRIVMSG #chat :from IRC")
            await alice.until_told(channel, "from IRC", "@irc_test_ian:here.example")
