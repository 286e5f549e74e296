"""Rooms in the directories of application services' networks. Owns `network_rooms`."""

from __future__ import annotations

from federation.events.ids import RoomId
from homeserver.storage.database import Database


class NetworkRoomTable:
    """The rooms of each network of a service."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def publish(
        self, service_id: str, network_id: str, room_id: RoomId, *, now_ms: int, limit: int
    ) -> bool:
        """Puts a room into a network's directory. Returns False if the service has as many as it
        may have."""
        found = await self._database.fetchval(
            "INSERT INTO network_rooms (appservice_id, network_id, room_id, published_ms)"
            " SELECT $1, $2, $3, $4 WHERE $5 >"
            "  (SELECT count(*) FROM network_rooms WHERE appservice_id = $1"
            "   AND (network_id, room_id) <> ($2, $3))"
            " ON CONFLICT (appservice_id, network_id, room_id)"
            " DO UPDATE SET room_id = excluded.room_id RETURNING true",
            service_id,
            network_id,
            room_id,
            now_ms,
            limit,
        )
        return bool(found)

    async def unpublish(self, service_id: str, network_id: str, room_id: RoomId) -> None:
        """Takes a room out of a network's directory; no change if it isn't there."""
        await self._database.execute(
            "DELETE FROM network_rooms"
            " WHERE appservice_id = $1 AND network_id = $2 AND room_id = $3",
            service_id,
            network_id,
            room_id,
        )

    async def load(self, instance_id: str, limit: int) -> list[RoomId]:
        """Returns the rooms of a network, the last published first. It is given as clients know it
        (`rules.appservices.third_party.instance_id`)."""
        rows = await self._database.fetch(
            "SELECT room_id FROM network_rooms WHERE appservice_id || '|' || network_id = $1"
            " ORDER BY published_ms DESC, room_id LIMIT $2",
            instance_id,
            limit,
        )
        return [RoomId(row[0]) for row in rows]

    async def load_all(self, limit: int) -> list[RoomId]:
        """Returns the rooms of all networks, each once, the last published first."""
        rows = await self._database.fetch(
            "SELECT room_id FROM network_rooms GROUP BY room_id"
            " ORDER BY max(published_ms) DESC, room_id LIMIT $1",
            limit,
        )
        return [RoomId(row[0]) for row in rows]
