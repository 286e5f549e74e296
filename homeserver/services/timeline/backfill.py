"""Fetches history that is missing here: chooses the servers and the amount.

Rules:
1. The servers that sent the events after the gap are asked first, since they had its parents; then
   those with the most users in the room.
2. Each request asks for the maximum: every answer costs a lookup of the state before it.

Spec: server-server API, "Backfilling and retrieving missing events".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation.events.event import Event
from federation.events.ids import ServerName, server_of
from federation.transport.events.event_fetcher import RoomRef
from federation.transport.inbound.backfill import Backfiller
from homeserver import limits
from homeserver.engine.rooms.rooms import Room


class RoomBackfill:
    """Asks other servers for history before a place, and stores it."""

    def __init__(self, backfiller: Backfiller, server_name: ServerName) -> None:
        self._backfiller = backfiller
        self._server_name = server_name

    async def fetch(self, room: Room, children: Sequence[Event], *, limit: int) -> bool:
        """Fetches the parents of `children` that are missing here. Returns whether any were stored;
        doesn't raise for failures of other servers."""
        servers = choose_servers(children, room.joined_servers, self._server_name)
        stored = await self._backfiller.backfill(
            RoomRef(room.room_id, room.version),
            [event.event_id for event in children],
            servers,
            max(limit, limits.BACKFILL_EVENTS),
        )
        return stored > 0


def choose_servers(
    children: Sequence[Event], joined: Mapping[ServerName, int], own: ServerName
) -> list[ServerName]:
    """Returns the servers to ask, in order, without this one."""
    senders = [server_of(event.sender) for event in children]
    by_users = sorted(joined, key=lambda server: (-joined[server], server))
    return [one for one in dict.fromkeys((*senders, *by_users)) if one != own]
