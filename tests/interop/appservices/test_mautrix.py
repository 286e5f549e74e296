"""A bridge on mautrix-python's framework: it pings, makes a user, and relays, also what was said
while it was down."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.homeserver.appservice_world import bridged
from tests.hostile.clients.running_server import free_port
from tests.interop.appservices.bridges import process, until_said
from tests.interop.appservices.person import Person

pytest.importorskip("mautrix", reason="mautrix isn't installed: pip install mautrix")

pytestmark = pytest.mark.processes
GHOST = "@_irc_ghost:here.example"
MODULE = "tests.interop.appservices.echo_bridge"


async def test_it_relays(postgres_url: str, tmp_path: Path) -> None:
    """One bridge, killed and started again."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with bridged(postgres_url, tmp_path, url=url, receive_ephemeral=True) as bridge:
        server = bridge.server
        alice = Person(server, await server.register("alice"))
        arguments = [MODULE, server.url, "here.example", str(port)]
        await bridge.register("_irc_ghost")
        async with process(tmp_path, *arguments, python=sys.executable) as log:
            await until_said(log, "pinged in")
            room_id = await server.create_room(alice.user, preset="private_chat", invite=[GHOST])
            await alice.until_joined(room_id, GHOST)
            await alice.say(room_id, "one")
            await alice.until_told(room_id, "echo: one", GHOST)
            typing = f"/rooms/{quote(room_id)}/typing/{quote(alice.user.user_id)}"
            await server.ok("PUT", typing, {"typing": True, "timeout": 30000}, by=alice.user)
            await until_said(log, f"typing in {room_id}")
        await alice.say(room_id, "two")
        await alice.say(room_id, "three")
        async with process(tmp_path, *arguments, python=sys.executable):
            for text in ("echo: two", "echo: three"):  # the framework handles both at once
                await alice.until_told(room_id, text, GHOST)
        said = [body for who, body in await alice.messages(room_id) if who == GHOST]
        assert sorted(said) == ["echo: one", "echo: three", "echo: two"]
