"""A user of the server who talks with a bridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.faults.servers import until
from tests.hostile.clients.running_server import Requests, User
from tests.interop.appservices.bridges import WAIT_S


class Person:
    """A user of the server who talks with the bridge."""

    def __init__(self, server: Requests, user: User) -> None:
        self.server, self.user = server, user
        self._sent = 0

    async def say(self, room_id: str, text: str) -> str:
        """Sends a message; its event ID."""
        return await self.send(room_id, "m.room.message", {"msgtype": "m.text", "body": text})

    async def send(self, room_id: str, kind: str, content: object) -> str:
        """Sends an event; its ID."""
        self._sent += 1
        path = f"/rooms/{quote(room_id)}/send/{kind}/t{self._sent}"
        return str((await self.ok("PUT", path, content))["event_id"])

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        """The body of an answer that must be 200."""
        return await self.server.ok(method, path, body, by=self.user)

    async def events(self, room_id: str) -> list[Any]:
        """All events of a room, oldest first."""
        found: list[Any] = []
        start = ""
        while True:
            path = f"/rooms/{quote(room_id)}/messages?dir=f&limit=500{start}"
            page = await self.ok("GET", path)
            found += page["chunk"]
            if "end" not in page:
                return found
            start = f"&from={quote(page['end'])}"

    async def until_event(self, room_id: str, condition: Callable[[Any], object], what: str) -> Any:
        """Waits for an event; the first that a condition holds for."""
        found: list[Any] = []

        async def is_there() -> bool:
            found[:] = [one for one in await self.events(room_id) if condition(one)]
            return bool(found)

        await until(is_there, what, within_s=WAIT_S)
        return found[0]

    async def until_said(self, room_id: str, text: str) -> Any:
        """Waits for a message of just a text."""
        return await self.until_event(
            room_id, lambda event: event["content"].get("body") == text, f"somebody says {text!r}"
        )

    async def until_ephemeral(
        self, room_id: str, kind: str, condition: Callable[[Any], object]
    ) -> None:
        """Waits until a sync from the start shows an ephemeral event whose content is right."""

        async def is_there() -> bool:
            rooms: Any = (await self.server.sync(self.user))["rooms"]
            events = rooms["join"][room_id]["ephemeral"]["events"]
            return any(one["type"] == kind and condition(one["content"]) for one in events)

        await until(is_there, f"{kind} in {room_id}", within_s=WAIT_S)

    async def messages(self, room_id: str) -> list[tuple[str, str]]:
        """All messages of a room, with their senders, newest first."""
        path = f"/rooms/{quote(room_id)}/messages?dir=b&limit=100"
        chunk = (await self.ok("GET", path))["chunk"]
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
            return user_id in (await self.ok("GET", path))["joined"]

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
        await self.ok("POST", f"/join/{quote(found[-1])}", {})
        return found[-1]
