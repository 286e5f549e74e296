"""The published room directory of this server, and those of application services' networks, in
pages.

Spec: client-server API, "Published room directory"; application service API, "Published room
directories".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from homeserver import limits
from homeserver.engine.rooms.rooms import Rooms
from homeserver.errors import invalid_param
from homeserver.rules.rooms.public_rooms import (
    NEEDED,
    Search,
    describe,
    is_federated,
    matches,
    order,
)
from homeserver.storage.database import Database
from homeserver.storage.rooms.directory import DirectoryTable
from homeserver.storage.rooms.network_rooms import NetworkRoomTable


class Networks(NamedTuple):
    """The directories that are asked: the server's own; with `instance_id` that of one network
    instead; with `all_of_them` those of all networks, too."""

    instance_id: str | None = None
    all_of_them: bool = False


OWN = Networks()


class PublicRooms:
    """Lists and searches published rooms."""

    def __init__(self, database: Database, rooms: Rooms) -> None:
        self._directory, self._rooms = DirectoryTable(database), rooms
        self._networks = NetworkRoomTable(database)

    async def page(
        self,
        search: Search,
        *,
        start: int,
        limit: int,
        networks: Networks = OWN,
        federated_only: bool = False,
    ) -> JsonObject:
        """Returns up to `limit` rooms that a search finds, from the `start`th on: `chunk`,
        `next_batch`, `prev_batch` and the total. `federated_only` leaves out the rooms that users
        of other servers can't join."""
        published = await self._published(networks)
        entries = await self._entries(published, search, federated_only=federated_only)
        found = sorted(entries, key=order)
        answer: JsonObject = {
            "chunk": found[start : start + limit],
            "total_room_count_estimate": len(found),
        }
        if start + limit < len(found):
            answer["next_batch"] = str(start + limit)
        if start > 0:
            answer["prev_batch"] = str(max(0, start - limit))
        return answer

    async def _published(self, networks: Networks) -> list[RoomId]:
        most = limits.PUBLISHED_ROOMS_LISTED
        if networks.instance_id is not None:
            return await self._networks.load(networks.instance_id, most)
        published = await self._directory.load_published(most)
        if networks.all_of_them:
            published += await self._networks.load_all(most)
        return list(dict.fromkeys(published))

    async def _entries(
        self, published: Sequence[RoomId], search: Search, *, federated_only: bool
    ) -> list[JsonObject]:
        """Returns the entries of the rooms that a search finds. Rooms are loaded and searched some
        at a time, with other tasks in between."""
        entries: list[JsonObject] = []
        for at in range(0, len(published), limits.PUBLISHED_ROOMS_LOADED):
            part = published[at : at + limits.PUBLISHED_ROOMS_LOADED]
            for room_id, room in (await self._rooms.get_many(part)).items():
                events = await self._rooms.state_events(room.view.state, NEEDED)
                contents = {key: event.content for key, event in events.items()}
                entry = describe(room_id, room.view.joined, contents)
                if matches(entry, search) and (not federated_only or is_federated(contents)):
                    entries.append(entry)
        return entries


def parse_start(since: str | None) -> int:
    """Returns the number of the first room of a page, from a token; raises 400 M_INVALID_PARAM."""
    if not since:
        return 0
    if not (
        since.isascii() and since.isdigit() and len(since) <= limits.PUBLISHED_ROOMS_TOKEN_DIGITS
    ):
        raise invalid_param("since is not a token of this directory")
    return int(since)
