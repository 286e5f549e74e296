"""The directories of rooms that application services keep for their networks.

Spec: application service API, "Published room directories".
"""

from __future__ import annotations

from federation.events.ids import RoomId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.rooms.rooms import Rooms
from homeserver.errors import invalid_param, not_found
from homeserver.rules.appservices.registrations import AppService
from homeserver.storage.database import Database
from homeserver.storage.rooms.network_rooms import NetworkRoomTable


class NetworkDirectory:
    """Publishes rooms in networks' directories."""

    def __init__(self, database: Database, rooms: Rooms, clock: Clock) -> None:
        self._published, self._rooms, self._clock = NetworkRoomTable(database), rooms, clock

    async def set_published(
        self, service: AppService, network_id: str, room_id: RoomId, wanted: bool
    ) -> None:
        """Publishes or hides a room. Raises 404 M_NOT_FOUND for a room that isn't known here, 400
        M_INVALID_PARAM for a network's name that is too long, and for too many rooms."""
        if not 0 < len(network_id.encode()) <= limits.IDENTIFIER_BYTES:
            raise invalid_param("Not a network's ID")
        if not wanted:
            await self._published.unpublish(service.service_id, network_id, room_id)
            return
        if await self._rooms.get(room_id) is None:
            raise not_found("Room not found")
        fits = await self._published.publish(
            service.service_id,
            network_id,
            room_id,
            now_ms=self._clock.now_ms(),
            limit=limits.NETWORK_ROOMS,
        )
        if not fits:
            raise invalid_param(f"A service publishes at most {limits.NETWORK_ROOMS} rooms")
