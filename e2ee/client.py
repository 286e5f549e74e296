"""The client: an account on a homeserver, its rooms and their messages, end-to-end encrypted.

Rules:
1. The homeserver isn't trusted: it can't turn encryption off, have keys sent to devices that
   don't prove themselves, or forge the messages of other users.
2. A device is one store: make it by `register` or `login`, come back to it by `restore`.

See `syncing` (in), `sending` (out), `timeline` (display) and `machine` (keys).
"""

import asyncio
import ssl as ssl_module
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec

from e2ee.crypto.sealed import SealingKey
from e2ee.http import AiohttpTransport, MatrixApi, Transport, Unreachable
from e2ee.limits import JOIN_WAIT_S_MAX, SYNC_PAUSE_S_MAX, SYNC_PAUSE_S_MIN, SYNC_WAIT_MS
from e2ee.machine.machine import Machine
from e2ee.request_sender import RequestSender
from e2ee.rooms import ClientRoom, ClientRooms
from e2ee.sending import ClientError, NotEncryptable, Sending
from e2ee.store import Store
from e2ee.syncing import Syncing, SyncSummary
from e2ee.timeline import Message, Status, StatusKind, build_messages

__all__ = [
    "Client",
    "ClientError",
    "ClientRoom",
    "Message",
    "NotEncryptable",
    "Status",
    "StatusKind",
    "SyncSummary",
]

JsonObject = dict[str, Any]
_SESSION = "client session"
C = TypeVar("C", bound="Client")


class _Session(msgspec.Struct, frozen=True):
    base_url: str
    user_id: str
    device_id: str
    access_token: str


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Client:
    """A logged-in device. `machine` shows its keys, alarms (`take_notices`) and rooms' settings."""

    def __init__(self, api: MatrixApi, store: Store, machine: Machine) -> None:
        self.user_id: Final = machine.device.user_id
        self.device_id: Final = machine.device.device_id
        self.machine: Final = machine
        self._api = api
        self._store = store
        self._client_rooms = ClientRooms(machine.pending_changes)
        self._request_sender = RequestSender(api, store, machine, _now_ms)
        self._syncing = Syncing(api, machine, self._client_rooms, self._request_sender)
        self._sending = Sending(api, machine, self._client_rooms, self._request_sender)

    @classmethod
    async def register(
        cls,
        base_url: str | Transport,
        localpart: str,
        password: str,
        *,
        store_path: Path | str,
        store_key: bytes,
        ssl: ssl_module.SSLContext | None = None,
        device_name: str = "",
    ) -> Self:
        """Makes an account and its first device. The store must be new; the key is 32 secret bytes.

        Raises `MatrixRefused` (name taken, registration closed), `Unreachable`, `StoreInUse`,
        `StoreUnreadable`.
        """
        api = MatrixApi(_transport(base_url, ssl))
        return await _begin(
            cls,
            api,
            lambda: api.register(localpart, password, device_name),
            base_url=base_url,
            store=(store_path, store_key),
        )

    @classmethod
    async def login(
        cls,
        base_url: str | Transport,
        user: str,
        password: str,
        *,
        store_path: Path | str,
        store_key: bytes,
        ssl: ssl_module.SSLContext | None = None,
        device_name: str = "",
    ) -> Self:
        """Logs in as a new device; `user` is a localpart or user ID. Otherwise as `register`."""
        api = MatrixApi(_transport(base_url, ssl))
        return await _begin(
            cls,
            api,
            lambda: api.login(user, password, device_name),
            base_url=base_url,
            store=(store_path, store_key),
        )

    @classmethod
    async def restore(
        cls,
        *,
        store_path: Path | str,
        store_key: bytes,
        base_url: str | Transport = "",
        ssl: ssl_module.SSLContext | None = None,
    ) -> Self:
        """Returns the device kept in a store; `base_url` overrides the address it logged in at."""
        key = SealingKey(store_key)
        store = Store.open(Path(store_path), key)
        machine = Machine.load(store, key.pickle_key())
        session = None if machine is None else machine.pending_changes.load(_SESSION, "", _Session)
        if machine is None or session is None:
            store.close()
            raise ClientError(f"{store_path} holds no device: log in first")
        transport = _transport(base_url or session.base_url, ssl)
        return cls(MatrixApi(transport, session.access_token), store, machine)

    async def close(self) -> None:
        """Saves, and lets go of the store and the connections; the device stays logged in."""
        self._request_sender.save()
        await self._api.close()
        self._store.close()

    async def logout(self) -> None:
        """Ends the device: the server deletes its keys. What it could read stays in its store."""
        await self._api.logout()

    def rooms(self, membership: str = "join") -> tuple[ClientRoom, ...]:
        """Rooms in which our membership is this; for `invite`, `ClientRoom.inviter` says by
        whom."""
        return tuple(room for room in self._client_rooms.all() if room.membership == membership)

    def room(self, room_id: str) -> ClientRoom | None:
        """Returns the known room, or None."""
        return self._client_rooms.of(room_id)

    def members(self, room_id: str) -> frozenset[str]:
        """Returns the user IDs joined to the room."""
        room = self._client_rooms.of(room_id)
        return room.with_membership("join") if room else frozenset()

    def is_encrypted(self, room_id: str) -> bool:
        """Returns whether the room was ever seen encrypted; then it stays so for us."""
        return self._sending.is_encrypted(room_id)

    def timeline(self, room_id: str) -> list[Message]:
        """Returns the room's messages, oldest first: decrypted as far as keys are here, edits
        applied."""
        room = self._client_rooms.of(room_id)
        if room is None:
            return []
        events = self._client_rooms.events(room_id)
        messages = build_messages(events, self._syncing.read, room.encrypted_from)
        self._request_sender.save()  # decrypting bound message indexes to events
        return messages

    async def create_room(
        self,
        *,
        name: str,
        invite: Iterable[str] = (),
        encrypted: bool = True,
        version: str | None = None,
        public: bool = False,
    ) -> str:
        """Makes a room and waits until it syncs; returns its ID. Encrypted from its beginning."""
        body: JsonObject = {
            "name": name,
            "invite": sorted(invite),
            "preset": "public_chat" if public else "private_chat",
            "visibility": "public" if public else "private",
        }
        if version is not None:
            body["room_version"] = version
        if encrypted:
            content = {"algorithm": "m.megolm.v1.aes-sha2"}
            state = {"type": "m.room.encryption", "state_key": "", "content": content}
            body["initial_state"] = [state]
        room_id = await self._api.create_room(body)
        if encrypted:  # from now on, whatever the server shows of the room
            self.machine.pin_encryption(room_id)
            self._client_rooms.pin_encryption(room_id)
            self._request_sender.save()
        await _wait_until_joined(self, room_id)
        return room_id

    async def join(self, room_id: str, via: Iterable[str] = ()) -> str:
        """Joins by room ID or alias and waits until the room syncs; returns the room ID."""
        joined = await self._api.join(room_id, tuple(via))
        await _wait_until_joined(self, joined)
        return joined

    async def leave(self, room_id: str) -> None:
        """Leaves a room, or refuses an invite."""
        await self._api.leave(room_id)

    async def invite(self, room_id: str, user_id: str) -> None:
        """Invites a user; they read what is said once they joined, and nothing older."""
        await self._api.invite(room_id, user_id)

    async def send_text(self, room_id: str, body: str) -> str:
        """Sends a text message; returns its event ID. Encrypted if the room ever was.

        Raises `NotEncryptable` and `ClientError` (nothing was sent), `MatrixRefused`,
        `Unreachable` (the message may have been sent).
        """
        return await self._sending.send_message(room_id, {"msgtype": "m.text", "body": body})

    async def edit(self, room_id: str, event_id: str, new_body: str) -> str:
        """Replaces the text of a message of ours; returns the edit's event ID."""
        content = {
            "msgtype": "m.text",
            "body": f"* {new_body}",
            "m.new_content": {"msgtype": "m.text", "body": new_body},
            "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
        }
        return await self._sending.send_message(room_id, content)

    async def sync_once(self, timeout_ms: int = 0) -> SyncSummary:
        """Makes one sync, waiting at most `timeout_ms` for news; uploads and queries keys as
        needed."""
        summary = await self._syncing.sync(timeout_ms)
        await self._request_sender.flush()
        return summary

    async def until(self, predicate: Callable[["Client"], bool], *, deadline_s: float) -> None:
        """Syncs until the predicate holds; raises `TimeoutError` if it doesn't in time."""
        async with asyncio.timeout(deadline_s):
            await self._syncing.until(lambda: predicate(self))

    async def run(self) -> None:
        """Syncs for ever; pauses while the homeserver can't be reached. Ends when cancelled."""
        pause_s = SYNC_PAUSE_S_MIN
        while True:
            try:
                await self.sync_once(SYNC_WAIT_MS)
                pause_s = SYNC_PAUSE_S_MIN
            except Unreachable:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, SYNC_PAUSE_S_MAX)


async def _begin(
    make: type[C],
    api: MatrixApi,
    enter: Callable[[], Awaitable[JsonObject]],
    *,
    base_url: str | Transport,
    store: tuple[Path | str, bytes],
) -> C:
    """Logs in a new device, makes its keys, saves them, and publishes them by a first sync."""
    path, key = Path(store[0]), SealingKey(store[1])
    opened = Store.open(path, key)
    has_begun = False
    try:
        if Machine.load(opened, key.pickle_key()) is not None:
            raise ClientError(f"{path} holds a device already: restore it")
        answer = await enter()
        user_id, device_id = answer["user_id"], answer["device_id"]
        machine = Machine.create(opened, key.pickle_key(), user_id=user_id, device_id=device_id)
        address = base_url if isinstance(base_url, str) else ""
        session = _Session(address, user_id, device_id, answer["access_token"])
        machine.pending_changes.put(_SESSION, "", session)
        machine.pending_changes.save(opened.apply)  # from here on `restore` works
        client = make(api, opened, machine)
        await client.sync_once()
        has_begun = True
        return client
    finally:
        if not has_begun:
            await api.close()
            opened.close()


async def _wait_until_joined(client: Client, room_id: str) -> None:
    def is_joined(client: Client) -> bool:
        room = client.room(room_id)
        return room is not None and room.membership == "join"

    await client.until(is_joined, deadline_s=JOIN_WAIT_S_MAX)


def _transport(base_url: str | Transport, ssl: ssl_module.SSLContext | None) -> Transport:
    return AiohttpTransport(base_url, ssl) if isinstance(base_url, str) else base_url
