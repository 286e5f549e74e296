"""Summaries of the rooms that this server is in, by their current state.

Rules:
1. Of a room that this server has left, others know more: it has no summary here.
2. Of a space a bounded number of children is looked at, the oldest first, in bytes too: whoever may
   set them may set any number.

Spec: client-server API, "Spaces", "Room summaries".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import RoomId, StateKey, UserId
from homeserver import limits
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.rooms.room_summaries import NEEDED, SummarisedRoom, describe, is_space
from homeserver.services.rooms.room_access import RoomContext, is_resident


class LocalSummary(msgspec.Struct, frozen=True):
    """A room that this server is in, with its summary."""

    room: Room
    summary: SummarisedRoom


class RoomViewer(msgspec.Struct, frozen=True):
    """What a local user has to do with rooms: their membership of each, and those that they are
    joined to."""

    memberships: dict[RoomId, str]
    joined: frozenset[RoomId]


class Summaries:
    """Makes summaries of rooms that are in the database."""

    def __init__(self, engine: RoomContext) -> None:
        self._rooms, self._memberships = engine.rooms, engine.memberships

    async def of(self, room_ids: Collection[RoomId]) -> dict[RoomId, LocalSummary]:
        """Returns the summaries of those of the rooms that this server is in."""
        found: dict[RoomId, LocalSummary] = {}
        wanted = list(dict.fromkeys(room_ids))
        for at in range(0, len(wanted), limits.PUBLISHED_ROOMS_LOADED):
            part = wanted[at : at + limits.PUBLISHED_ROOMS_LOADED]
            for room_id, room in (await self._rooms.get_many(part)).items():
                if is_resident(room):
                    found[room_id] = LocalSummary(room, await self._describe(room))
        return found

    async def viewer(self, user_id: UserId) -> RoomViewer:
        """Returns what a user has to do with rooms."""
        own = await self._memberships.of(user_id)
        memberships = {room_id: one.membership for room_id, one in own.items()}
        joined = frozenset(room for room, membership in memberships.items() if membership == "join")
        return RoomViewer(memberships, joined)

    async def _describe(self, room: Room) -> SummarisedRoom:
        state = room.view.state
        events = await self._rooms.state_events(state, NEEDED)
        contents = {key: event.content for key, event in events.items()}
        is_parent = is_space(contents.get(event_types.CREATE_KEY, {}))
        children = await self._children(room) if is_parent else ()
        return describe(room.room_id, room.version, room.view.joined, contents, children)

    async def _children(self, room: Room) -> Sequence[Event]:
        refs = [
            (ref.row_id, key)
            for key, ref in room.view.state.items()
            if key[0] == event_types.SPACE_CHILD
        ]
        keys: list[StateKey] = [key for _, key in sorted(refs)[: limits.SPACE_CHILDREN]]
        events = await self._rooms.state_events(room.view.state, keys)
        kept: list[Event] = []
        size = 0
        for key in keys:
            size += len(events[key].raw)
            if size > limits.SPACE_CHILDREN_BYTES:
                break
            kept.append(events[key])
        return kept
