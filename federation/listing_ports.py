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


@dataclass(frozen=True, slots=True)
class DirectoryQuestion:
    """What is asked of a published directory: `limit` 0 for as many rooms as fit; `since` a token
    of an earlier page; `instance_id` the directory of one network instead, `all_networks` those of
    all networks too; a term, and types of rooms (None for rooms without one)."""

    limit: int = 0
    since: str | None = None
    instance_id: str | None = None
    all_networks: bool = False
    search_term: str | None = None
    room_types: tuple[str | None, ...] | None = None

    @property
    def is_search(self) -> bool:
        """Whether only a part of the rooms is wanted."""
        return self.search_term is not None or self.room_types is not None


class RoomListings(Protocol):
    """Rooms of this server, as other servers may see them. Raises MatrixError."""

    async def hierarchy(
        self, origin: ServerName, room_id: RoomId, *, suggested_only: bool
    ) -> ShownSpace:
        """Returns a room and its children, as far as `origin` could join or read them. 404
        M_NOT_FOUND where it can't see the room itself, or this server isn't in it."""

    async def public_rooms(self, question: DirectoryQuestion) -> JsonObject:
        """Returns a page of the published directory, as the specification has it, of rooms that
        other servers' users may join. 400 M_INVALID_PARAM for an unknown token."""
