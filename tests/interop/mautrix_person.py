"""A person who uses mautrix-python, whose Olm and Megolm are libolm's: an independent ratchet.

Importing this module needs `mautrix` with its `encryption` extra.
"""

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.interop.nio_person import DEADLINE_S, PASSWORD

POLL_MS = 300  # short: mautrix goes on handling what came after its sync has returned
# By name, so that neither mypy nor a machine without these packages stumbles over them.
client_sdk: Any = import_module("mautrix.client")
crypto_sdk: Any = import_module("mautrix.crypto")
types: Any = import_module("mautrix.types")
api_sdk: Any = import_module("mautrix.api")
memory: Any = import_module("mautrix.crypto.store.memory")
states: Any = import_module("mautrix.client.state_store.memory")


class StateStore(states.MemoryStateStore):  # type: ignore[misc]
    """What mautrix keeps of rooms, with the one look-up that its crypto wants besides."""

    async def find_shared_rooms(self, user_id: str) -> list[str]:
        """Encrypted rooms that a user is in."""
        return [room for room in self.encryption if user_id in self.members.get(room, {})]


class MautrixPerson:
    """A logged-in device of mautrix."""

    def __init__(self, url: str) -> None:
        self.store = memory.MemoryCryptoStore("account", "pickle")
        self.client = client_sdk.Client(
            base_url=url, sync_store=self.store, state_store=StateStore()
        )
        self.machine: Any = None
        self.came: list[Any] = []
        self._since: str | None = None

    @property
    def user_id(self) -> str:
        """The user ID."""
        return str(self.client.mxid)

    async def register(self, localpart: str) -> None:
        """Makes an account."""
        body = {"username": localpart, "password": PASSWORD, "inhibit_login": True}
        auth = {"auth": {"type": "m.login.dummy"}}
        path = api_sdk.Path.v3.register
        await self.client.api.request(api_sdk.Method.POST, path, {**body, **auth})

    async def login(self, localpart: str) -> None:
        """Logs in as a new device, whose keys are published."""
        await self.client.login(identifier=localpart, password=PASSWORD, device_name="mautrix")
        self.machine = crypto_sdk.OlmMachine(self.client, self.store, self.client.state_store)
        await self.machine.load()
        self.client.crypto = self.machine
        self.client.add_event_handler(types.EventType.ROOM_MESSAGE, self._on_message)
        await self.machine.share_keys()
        await self.sync()

    async def close(self) -> None:
        """Gives back connections."""
        await self.client.api.session.close()

    async def sync(self, timeout_ms: int = 0) -> Any:
        """One sync with all that mautrix does upon it."""
        answer = await self.client.sync(since=self._since, timeout=timeout_ms)
        self._since = answer["next_batch"]
        await asyncio.gather(*self.client.handle_sync(answer))
        return answer

    async def until(self, predicate: Callable[[], object]) -> None:
        """Syncs until something holds; fails after a while."""
        async with asyncio.timeout(DEADLINE_S):
            while not predicate():
                await self.sync(POLL_MS)

    async def until_read(self, room_id: str, body: str) -> None:
        """Syncs until a text was read."""
        await self.until(lambda: body in self.bodies(room_id))

    async def say(self, room_id: str, body: str) -> str:
        """Sends a text, encrypted where the room is; returns the event ID."""
        return str(await self.client.send_text(room_id, body))

    def bodies(self, room_id: str) -> list[str]:
        """The texts that came."""
        return [event.content.body for event in self.came if event.room_id == room_id]

    async def _on_message(self, event: Any) -> None:
        self.came.append(event)
