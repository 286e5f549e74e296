"""Sending into rooms: encrypted wherever encryption was ever seen, or not at all.

Rules:
1. A room that is pinned as encrypted gets no plaintext from us, whatever the server shows now.
2. The room key is with all recipients, acknowledged, before the message goes.
3. Messages of one room go out one after the other.

Spec: client-server API, "m.megolm.v1.aes-sha2".
"""

import asyncio
import uuid
from typing import Any

import msgspec

from e2ee.http import MatrixApi
from e2ee.limits import CONTENT_BYTES_MAX, SHARING_ROUNDS_MAX
from e2ee.machine.machine import Machine
from e2ee.machine.rooms.room_key_sharing import Sharing
from e2ee.request_sender import RequestSender
from e2ee.rooms import ClientRooms

JsonObject = dict[str, Any]


class ClientError(Exception):
    """The client can't do what was asked; the text says what to do."""


class NotEncryptable(ClientError):
    """The room's encryption isn't one we know, or its key can't be shared: nothing was sent."""


class Sending:
    """Sends messages."""

    def __init__(
        self,
        api: MatrixApi,
        machine: Machine,
        client_rooms: ClientRooms,
        request_sender: RequestSender,
    ) -> None:
        self._api = api
        self._machine = machine
        self._client_rooms = client_rooms
        self._request_sender = request_sender
        self._locks: dict[str, asyncio.Lock] = {}

    def is_encrypted(self, room_id: str) -> bool:
        """Returns whether the room was ever seen encrypted, by the machine or in the room store."""
        room = self._client_rooms.of(room_id)
        is_pinned = room is not None and room.encrypted_from is not None
        return is_pinned or self._machine.room(room_id).is_encrypted

    async def send_message(self, room_id: str, content: JsonObject) -> str:
        """Sends an `m.room.message`; returns the event's ID."""
        if len(msgspec.json.encode(content)) > CONTENT_BYTES_MAX:
            raise ClientError("the message is too long: split it")
        room = self._client_rooms.of(room_id)
        if room is None or room.membership != "join":
            raise ClientError(f"not in {room_id}: join it first")
        transaction_id = uuid.uuid4().hex
        async with self._locks.setdefault(room_id, asyncio.Lock()):
            event_type = "m.room.message"
            if self.is_encrypted(room_id):
                event_type, content = "m.room.encrypted", await self._encrypt(room_id, content)
            return await self._api.send(room_id, event_type, transaction_id, content)

    async def _encrypt(self, room_id: str, content: JsonObject) -> JsonObject:
        if not self._machine.room(room_id).is_supported:
            raise NotEncryptable(f"{room_id} is encrypted with an algorithm we don't know")
        for _ in range(SHARING_ROUNDS_MAX):
            recipients = self._recipients(room_id)
            state = self._machine.share_room_key(room_id, recipients, self._request_sender.clock())
            if state is Sharing.READY:  # and no await until the message is encrypted
                unsaved = self._machine.encrypt(room_id, "m.room.message", content)
                self._request_sender.save()
                return self._machine.pending_changes.release(unsaved)
            await self._request_sender.flush()
        raise NotEncryptable(f"the key of {room_id} can't be shared with its members: try again")

    def _recipients(self, room_id: str) -> frozenset[str]:
        room = self._client_rooms.of(room_id)
        assert room is not None, "only rooms that we are in are sent to"
        if self._machine.room(room_id).invited_may_read:
            return room.with_membership("join", "invite")
        return room.with_membership("join")
