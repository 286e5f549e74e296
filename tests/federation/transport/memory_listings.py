"""Rooms in memory that a server shows to others."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName
from federation.listing_ports import DirectoryQuestion, ShownSpace


@dataclass
class MemoryListings:
    """`RoomListings`: what a test says, and what was asked."""

    spaces: dict[RoomId, ShownSpace] = field(default_factory=dict)
    page: JsonObject = field(default_factory=lambda: {"chunk": []})
    asked: list[tuple[object, ...]] = field(default_factory=list)

    async def hierarchy(
        self, origin: ServerName, room_id: RoomId, *, suggested_only: bool
    ) -> ShownSpace:
        """The space, or 404."""
        self.asked.append((origin, room_id, suggested_only))
        if room_id not in self.spaces:
            raise MatrixError(404, "M_NOT_FOUND", "Room not found")
        return self.spaces[room_id]

    async def public_rooms(self, question: DirectoryQuestion) -> JsonObject:
        """The page."""
        self.asked.append((question,))
        return self.page
