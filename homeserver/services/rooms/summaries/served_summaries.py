"""Summaries of this server's rooms for other servers: `federation.listing_ports.RoomListings`.

Rules:
1. A server sees a room that anybody may enter or read, one in which it has a joined or invited
   user, and one that members of a room may join in which it has a user. Rooms that aren't federated
   it doesn't see: its users can't join them.
2. Children that this server isn't in are left out: others know of them. So are those beyond a size
   of the answer.

Spec: server-server API, `GET /hierarchy/{roomId}`, "Published room directory".
"""

from __future__ import annotations

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName, server_of
from federation.listing_ports import DirectoryQuestion, ShownSpace
from homeserver import errors, limits
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.rooms.public_rooms import Search
from homeserver.rules.rooms.room_summaries import is_open
from homeserver.services.rooms.public_rooms import Networks, PublicRooms, parse_start
from homeserver.services.rooms.room_access import RoomContext, is_resident
from homeserver.services.rooms.summaries.summaries import LocalSummary, Summaries


class ServedSummaries:
    """Answers other servers."""

    def __init__(
        self, engine: RoomContext, summaries: Summaries, public_rooms: PublicRooms
    ) -> None:
        self._rooms, self._summaries = engine.rooms, summaries
        self._public_rooms = public_rooms

    async def public_rooms(self, question: DirectoryQuestion) -> JsonObject:
        """`RoomListings.public_rooms`."""
        most = limits.PUBLISHED_ROOMS_PER_PAGE
        return await self._public_rooms.page(
            Search(question.search_term, question.room_types),
            start=parse_start(question.since),
            limit=min(question.limit or most, most),
            networks=Networks(question.instance_id, question.all_networks),
            federated_only=True,
        )

    async def hierarchy(
        self, origin: ServerName, room_id: RoomId, *, suggested_only: bool
    ) -> ShownSpace:
        """`RoomListings.hierarchy`."""
        local = (await self._summaries.of([room_id])).get(room_id)
        if local is None or not await self._sees(origin, local):
            raise errors.not_found("Room not found")
        chosen = local.summary.chosen(suggested_only=suggested_only)
        size, children, hidden = local.summary.bytes, dict[RoomId, JsonObject](), list[RoomId]()
        for at in range(0, len(chosen), limits.PUBLISHED_ROOMS_LOADED):
            part = [child.room_id for child in chosen[at : at + limits.PUBLISHED_ROOMS_LOADED]]
            for child_id, child in (await self._summaries.of(part)).items():
                if not await self._sees(origin, child):
                    hidden.append(child_id)
                    continue
                size += child.summary.bytes
                if size > limits.SERVED_HIERARCHY_BYTES:
                    return ShownSpace(local.summary.with_children(chosen), children, hidden)
                of_child = child.summary.chosen(suggested_only=suggested_only)
                children[child_id] = child.summary.with_children(of_child)
        return ShownSpace(local.summary.with_children(chosen), children, hidden)

    async def _sees(self, origin: ServerName, local: LocalSummary) -> bool:
        """Returns whether a server may see a room (rule 1)."""
        room, summary = local.room, local.summary
        if not summary.is_federated:
            return False
        if origin in room.joined_servers or is_open(summary) or _is_invited(origin, room):
            return True
        allowed = await self._rooms.get_many(summary.allowed_rooms)
        return any(is_resident(one) and origin in one.joined_servers for one in allowed.values())


def _is_invited(origin: ServerName, room: Room) -> bool:
    """Returns whether a user of a server is invited to a room."""
    if not room.view.invited:
        return False
    return any(
        ref.membership == "invite" and kind == event_types.MEMBER and server_of(user) == origin
        for (kind, user), ref in room.view.state.items()
    )
