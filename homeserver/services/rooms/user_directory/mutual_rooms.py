"""The rooms that two users share.

Spec: client-server API, GET /mutual_rooms.
"""

from __future__ import annotations

import msgspec

from federation.events.ids import InvalidIdentifier, RoomId, UserId, parse_user_id
from homeserver import limits
from homeserver.engine.followers.memberships import Memberships
from homeserver.errors import invalid_param


class MutualRoomsPage(msgspec.Struct, frozen=True):
    """Some of the rooms, and how many there are in all. `last` is the room that the next page comes
    after; None if there are no more."""

    rooms: list[RoomId]
    count: int
    last: RoomId | None


class MutualRooms:
    """Finds them."""

    def __init__(self, memberships: Memberships) -> None:
        self._memberships = memberships

    async def page(self, reader: UserId, other: str, *, after: str) -> MutualRoomsPage:
        """Returns the rooms that both are joined to, by their IDs, past the room `after`. Nobody
        learns more of the other's rooms than what is said in their own. Raises 400
        M_INVALID_PARAM."""
        try:
            user_id = parse_user_id(other)
        except InvalidIdentifier as error:
            raise invalid_param(f"user_id: {error}") from error
        if user_id == reader:
            raise invalid_param("user_id is the ID of another user")
        own = set(await self._memberships.rooms_of(reader))
        shared = sorted(own.intersection(await self._memberships.rooms_of(user_id)))
        left = [room_id for room_id in shared if room_id > after]
        rooms = left[: limits.MUTUAL_ROOMS]
        return MutualRoomsPage(rooms, len(shared), rooms[-1] if len(left) > len(rooms) else None)
