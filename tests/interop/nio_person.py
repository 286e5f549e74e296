"""A person who uses matrix-nio: registers, syncs as its `sync_forever` does, and remembers what
came.

Rules:
1. Every call is checked: an error response ends the test with the server's words.
2. A sync is followed by what the client owes then: to-device messages, key upload, query, claim.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nio import AsyncClient, AsyncClientConfig, ErrorResponse, Event, RoomMessageText
from nio.store import SqliteMemoryStore

PASSWORD = "a password of some length"
POLL_MS = 10_000
DEADLINE_S = 30


def good(response: Any) -> Any:
    """The response, which must not be an error (rule 1)."""
    assert not isinstance(response, ErrorResponse), repr(response)
    return response


class NioPerson:
    """A logged-in device of matrix-nio. `client` is nio's own, for single calls."""

    def __init__(self, url: str, folder: Path) -> None:
        config = AsyncClientConfig(
            store=SqliteMemoryStore, encryption_enabled=True, max_timeouts=1, max_limit_exceeded=1
        )
        self.client = AsyncClient(url, store_path=str(folder), config=config)
        self.events: list[tuple[str, Any]] = []
        self.ephemeral: list[tuple[str, Any]] = []
        self.account_data: list[Any] = []
        self.last_sync: Any = None
        self.client.add_event_callback(self._on_event, Event)
        self.client.add_ephemeral_callback(self._on_ephemeral, None)
        self.client.add_global_account_data_callback(self._on_account_data, None)

    @property
    def user_id(self) -> str:
        """The user ID."""
        return str(self.client.user_id)

    async def register(self, localpart: str) -> None:
        """Makes an account and a first device, whose keys are published."""
        good(await self.client.register(localpart, PASSWORD, "nio"))
        await self.sync()

    async def login(self, user_id: str, password: str = PASSWORD) -> None:
        """Logs in as a new device, whose keys are published."""
        self.client.user = user_id
        good(await self.client.login(password, "nio again"))
        await self.sync()

    async def close(self) -> None:
        """Gives back connections."""
        await self.client.close()

    async def sync(self, timeout_ms: int = 0, **options: Any) -> Any:
        """One sync, and what follows from it (rule 2); returns nio's response."""
        self.last_sync = good(await self.client.sync(timeout_ms, **options))
        for sent in await self.client.send_to_device_messages():
            good(sent)
        if self.client.should_upload_keys:
            good(await self.client.keys_upload())
        if self.client.should_query_keys:
            good(await self.client.keys_query())
        if self.client.should_claim_keys:
            good(await self.client.keys_claim(self.client.get_users_for_key_claiming()))
        return self.last_sync

    async def until(self, predicate: Callable[[], object]) -> None:
        """Syncs until something holds; fails after a while."""
        async with asyncio.timeout(DEADLINE_S):
            while not predicate():
                await self.sync(POLL_MS)

    async def until_joined(self, room_id: str) -> None:
        """Syncs until a room is there."""
        await self.until(lambda: room_id in self.client.rooms)

    async def until_invited(self, room_id: str) -> None:
        """Syncs until an invite is there."""
        await self.until(lambda: room_id in self.client.invited_rooms)

    async def until_read(self, room_id: str, body: str) -> None:
        """Syncs until a text was read."""
        await self.until(lambda: body in self.bodies(room_id))

    async def say(self, room_id: str, body: str) -> str:
        """Sends a text, encrypted where the room is; returns the event ID."""
        content = {"msgtype": "m.text", "body": body}
        sent = await self.client.room_send(
            room_id, "m.room.message", content, ignore_unverified_devices=True
        )
        return str(good(sent).event_id)

    def read(self, room_id: str) -> list[tuple[str, str, bool]]:
        """The texts that came: sender, body, whether it was encrypted."""
        return [
            (event.sender, event.body, event.decrypted)
            for where, event in self.events
            if where == room_id and isinstance(event, RoomMessageText)
        ]

    def bodies(self, room_id: str) -> list[str]:
        """The texts that came, without more."""
        return [body for _, body, _ in self.read(room_id)]

    def of_kind(self, room_id: str, kind: type) -> list[Any]:
        """The events of one of nio's types that came in a room, ephemeral ones too."""
        came = [*self.events, *self.ephemeral]
        return [event for where, event in came if where == room_id and isinstance(event, kind)]

    def _on_event(self, room: Any, event: Any) -> None:
        self.events.append((room.room_id, event))

    def _on_ephemeral(self, room: Any, event: Any) -> None:
        self.ephemeral.append((room.room_id, event))

    def _on_account_data(self, event: Any) -> None:
        self.account_data.append(event)
