"""The servers that requests are made to first when there are more than can be made at once."""

from __future__ import annotations

from federation.events.ids import ServerName
from federation.transport.requests.backoff import Backoffs
from homeserver.storage.database import Database
from homeserver.storage.rooms.memberships import MembershipTable


class Neighbours:
    """Servers that share a room with this one, and answer."""

    def __init__(self, server_name: ServerName, database: Database, backoffs: Backoffs) -> None:
        self._server_name, self._backoffs = server_name, backoffs
        self._memberships = MembershipTable(database)

    async def is_neighbour(self, server: ServerName) -> bool:
        """Implements `federation.transport.scheduling.scheduler.IsNeighbour`."""
        if self._backoffs.of(server) is not None:
            return False  # A lost one would only occupy a place.
        return await self._memberships.shares_room(self._server_name, server)
