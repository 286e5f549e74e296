"""The published room directory of this server, in pages.

Spec: client-server API, "Published room directory".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from homeserver import limits
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.rooms.public_rooms import NEEDED, Search, describe, matches, order
from homeserver.storage.database import Database
from homeserver.storage.rooms.directory import DirectoryTable


class PublicRooms:
    """Lists and searches published rooms."""

    def __init__(self, database: Database, rooms: Rooms) -> None:
        self._directory, self._rooms = DirectoryTable(database), rooms

    async def page(self, search: Search, *, start: int, limit: int) -> JsonObject:
        """Returns up to `limit` rooms that a search finds, from the `start`th on: `chunk`,
        `next_batch`, `prev_batch` and the total."""
        found = sorted(
            (entry for entry in await self._entries() if matches(entry, search)), key=order
        )
        answer: JsonObject = {
            "chunk": found[start : start + limit],
            "total_room_count_estimate": len(found),
        }
        if start + limit < len(found):
            answer["next_batch"] = str(start + limit)
        if start > 0:
            answer["prev_batch"] = str(max(0, start - limit))
        return answer

    async def _entries(self) -> list[JsonObject]:
        published = await self._directory.load_published(limits.PUBLISHED_ROOMS_LISTED)
        entries: list[JsonObject] = []
        for at in range(0, len(published), limits.PUBLISHED_ROOMS_LOADED):
            part = published[at : at + limits.PUBLISHED_ROOMS_LOADED]
            for room_id, room in (await self._rooms.get_many(part)).items():
                entries.append(await self._describe(room_id, room))
        return entries

    async def _describe(self, room_id: RoomId, room: Room) -> JsonObject:
        events = await self._rooms.state_events(room.view.state, NEEDED)
        contents = {key: event.content for key, event in events.items()}
        return describe(room_id, room.view.joined, contents)
