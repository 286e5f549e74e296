"""Received EDUs, each to the service that it concerns.

An origin speaks only for its own users: EDUs about others are ignored, here and in the services.

Spec: server-server API, "EDUs".
"""

from __future__ import annotations

import logging

from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    InvalidIdentifier,
    RoomId,
    ServerName,
    UserId,
    parse_user_id,
    server_of,
)
from homeserver.services.encryption.remote_devices import RemoteDevices
from homeserver.services.encryption.to_device import ToDevice
from homeserver.services.ephemeral.receipts import Receipts
from homeserver.services.ephemeral.remote_presence import RemotePresence
from homeserver.services.ephemeral.typing import Typing

log = logging.getLogger(__name__)


class FederationEdus:
    """`federation.ports.EduSink`."""

    def __init__(
        self,
        *,
        typing: Typing,
        receipts: Receipts,
        to_device: ToDevice,
        remote_devices: RemoteDevices,
        presence: RemotePresence,
    ) -> None:
        self._typing, self._receipts = typing, receipts
        self._to_device, self._remote_devices = to_device, remote_devices
        self._presence = presence

    async def typing(
        self, origin: ServerName, room_id: RoomId, user_id: UserId, typing: bool
    ) -> None:
        """m.typing."""
        if _speaks_for(origin, user_id):
            await self._typing.receive(origin, room_id, user_id, typing)

    async def receipts(self, origin: ServerName, content: JsonObject) -> None:
        """m.receipt."""
        await self._receipts.receive(origin, content)

    async def to_device(self, origin: ServerName, content: JsonObject) -> None:
        """m.direct_to_device."""
        if _speaks_for(origin, content.get("sender")):
            await self._to_device.receive(origin, content)

    async def device_list_update(self, origin: ServerName, content: JsonObject) -> None:
        """m.device_list_update."""
        if _speaks_for(origin, content.get("user_id")):
            await self._remote_devices.update(content)

    async def signing_key_update(self, origin: ServerName, content: JsonObject) -> None:
        """m.signing_key_update."""
        if _speaks_for(origin, content.get("user_id")):
            await self._remote_devices.update_signing_keys(content)

    async def presence(self, origin: ServerName, content: JsonObject) -> None:
        """m.presence."""
        await self._presence.receive(origin, content)


def _speaks_for(origin: ServerName, user: object) -> bool:
    try:
        if isinstance(user, str) and server_of(parse_user_id(user)) == origin:
            return True
    except InvalidIdentifier:
        pass
    log.info("%s sent an EDU for a user who isn't its own; ignored", origin)
    return False
