"""heisenbridge, unmodified: it starts, makes rooms and users, and relays both ways."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from tests.faults.servers import until
from tests.hostile.clients.running_server import Server, User, free_port, running
from tests.interop.appservices.bridges import (
    PYTHON,
    WAIT_S,
    BridgesUnavailable,
    ensure_bridges,
    irc_person,
    process,
    until_said,
)
from tests.interop.appservices.irc_server import irc_server

pytestmark = pytest.mark.processes

BOT = "@heisenbridge:here.example"


class Person:
    """A user of the server who talks with the bridge."""

    def __init__(self, server: Server, user: User) -> None:
        self.server, self.user = server, user
        self._sent = 0

    async def say(self, room_id: str, text: str) -> None:
        """Sends a message."""
        self._sent += 1
        await self.server.send(self.user, room_id, f"t{self._sent}", text)

    async def messages(self, room_id: str) -> list[tuple[str, str]]:
        """All messages of a room, with their senders, newest first."""
        path = f"/rooms/{quote(room_id)}/messages?dir=b&limit=100"
        chunk = (await self.server.ok("GET", path, by=self.user))["chunk"]
        return [
            (event["sender"], event["content"].get("body", ""))
            for event in chunk
            if event["type"] == "m.room.message"
        ]

    async def until_told(self, room_id: str, text: str, sender: str | None = None) -> None:
        """Waits for a message that contains a text."""

        async def is_there() -> bool:
            return any(
                text in body and sender in (None, who) for who, body in await self.messages(room_id)
            )

        await until(is_there, f"somebody says {text!r}", within_s=WAIT_S)

    async def until_joined(self, room_id: str, user_id: str) -> None:
        """Waits until somebody is joined to a room."""

        async def is_there() -> bool:
            path = f"/rooms/{quote(room_id)}/joined_members"
            return user_id in (await self.server.ok("GET", path, by=self.user))["joined"]

        await until(is_there, f"{user_id} joins", within_s=WAIT_S)

    async def enter(self, name: str) -> str:
        """Waits for an invite to a room whose name contains a text, and joins it; its ID."""
        found: list[str] = []

        async def is_invited() -> bool:
            rooms: dict[str, Any] = (await self.server.sync(self.user)).get("rooms", {})
            for room_id, room in rooms.get("invite", {}).items():
                events = room["invite_state"]["events"]
                names = [one["content"].get("name", "") for one in events]
                if any(name in one for one in names):
                    found.append(room_id)
            return bool(found)

        await until(is_invited, f"an invite to {name!r}", within_s=WAIT_S)
        await self.server.ok("POST", f"/join/{quote(found[-1])}", {}, by=self.user)
        return found[-1]


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
