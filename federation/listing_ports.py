"""What federation asks of its homeserver about rooms that others may find, as Protocols (see
`ports`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName


@dataclass(frozen=True, slots=True)
class ShownSpace:
    """A room with the summaries of its children, in order. `inaccessible` are those children that
    the server can neither join nor read."""

    room: JsonObject
    children: Mapping[RoomId, JsonObject]
    inaccessible: Sequence[RoomId]


class RoomListings(Protocol):
    """Rooms of this server, as other servers may see them. Raises MatrixError."""

    async def hierarchy(
        self, origin: ServerName, room_id: RoomId, *, suggested_only: bool
    ) -> ShownSpace:
        """Returns a room and its children, as far as `origin` could join or read them. 404
        M_NOT_FOUND where it can't see the room itself, or this server isn't in it."""
