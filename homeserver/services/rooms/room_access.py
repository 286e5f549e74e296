"""Who may read a room, and its state at which time; who is in it.

Rules:
1. A joined user reads current state, and so does anybody of a world-readable room.
2. Who was joined once reads the state at the end of that time: at the event by which they left.
   A ban, a knock or a new invite since then changes nothing of that.
3. All others get 403 M_FORBIDDEN, for a room that is unknown here too: its existence is no
   business of theirs. Forgotten rooms count as never joined.

Spec: client-server API, "Getting events for a room", "Leaving rooms".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from federation.events.ids import EventId, RoomId, StateKey, UserId
from homeserver import errors, limits
from homeserver.engine.followers.memberships import Memberships
from homeserver.engine.local.writer import Writer
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.errors import MatrixError

REDACTION = "m.room.redaction"
CREATE: StateKey = ("m.room.create", "")
JOIN_RULES: StateKey = ("m.room.join_rules", "")
POWER_LEVELS: StateKey = ("m.room.power_levels", "")
CANONICAL_ALIAS: StateKey = ("m.room.canonical_alias", "")
GUEST_ACCESS: StateKey = ("m.room.guest_access", "")
HISTORY_VISIBILITY: StateKey = ("m.room.history_visibility", "")

NOT_IN_ROOM = "You aren't a member of this room"


@dataclass(frozen=True, slots=True)
class RoomContext:
    """What services about rooms stand on: the committed view, memberships, and the one door."""

    rooms: Rooms
    memberships: Memberships
    writer: Writer


@dataclass(frozen=True, slots=True)
class ReadableRoom:
    """A room and the state in which a user may see it. `is_current` says that it is today's."""

    room: Room
    state: Mapping[StateKey, StateRef]
    is_current: bool


def is_resident(room: Room | None) -> bool:
    """Does this server hold the room's current state: has it joined users, or is nobody left
    anywhere? (Of a room that we left, or were only invited to, others know more.)"""
    if room is None or CREATE not in room.view.state:
        return False
    return bool(room.joined_local) or not room.joined_servers


class RoomAccess:
    """Answers who may read a room."""

    def __init__(self, engine: RoomContext) -> None:
        self._rooms = engine.rooms
        self._memberships = engine.memberships

    async def joined(self, user_id: UserId, room_id: RoomId) -> Room:
        """The room, if the user is joined; raises 403 M_FORBIDDEN."""
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined_local:
            raise errors.forbidden(NOT_IN_ROOM)
        return room

    async def lets_guests_in(self, room_id: RoomId) -> bool:
        """Whether guests may be in a room, by its state as it is known here."""
        room = await self._rooms.get(room_id)
        if room is None:
            return False
        event = (await self._rooms.state_events(room.view.state, [GUEST_ACCESS])).get(GUEST_ACCESS)
        return event is not None and event.content.get("guest_access") == "can_join"

    async def readable(self, user_id: UserId, room_id: RoomId) -> ReadableRoom:
        """The room as the user may see it; raises 403 M_FORBIDDEN."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise errors.forbidden(NOT_IN_ROOM)
        if user_id in room.joined_local or await self._is_world_readable(room):
            return ReadableRoom(room, room.view.state, is_current=True)
        mine = (await self._memberships.of(user_id)).get(room_id)
        if mine is None or mine.forgotten:
            raise errors.forbidden(NOT_IN_ROOM)
        return ReadableRoom(room, await self._last_seen(room, user_id, mine.event_id), False)

    async def _is_world_readable(self, room: Room) -> bool:
        found = await self._rooms.state_events(room.view.state, [HISTORY_VISIBILITY])
        event = found.get(HISTORY_VISIBILITY)
        return event is not None and event.content.get("history_visibility") == "world_readable"

    async def _last_seen(
        self, room: Room, user_id: UserId, latest: EventId
    ) -> Mapping[StateKey, StateRef]:
        """The state after the event by which the user ceased to be joined."""
        ended = await self._rooms.end_of_stay(room, user_id)
        if ended is not None and ended[1] is not None:
            state = await self._rooms.state_after(room, ended[1])
            if state is not None:
                return state
        ref = room.view.state.get(("m.room.member", user_id))
        return await self._last_seen_by_events(room, user_id, ref.event_id if ref else latest)

    async def _last_seen_by_events(
        self, room: Room, user_id: UserId, left: EventId
    ) -> Mapping[StateKey, StateRef]:
        """As the membership events tell: a ban after a leave, or a refused invite, leads further
        back."""
        for _ in range(limits.MEMBERSHIP_STEPS):
            before = await self._rooms.state_before(room, left)
            previous = None if before is None else before.get(("m.room.member", user_id))
            if previous is None:
                break
            if previous.membership == "join":
                after = await self._rooms.state_after(room, left)
                assert after is not None, "the state before an event is known, so that after it is"
                return after
            left = previous.event_id
        raise errors.forbidden(NOT_IN_ROOM)


def as_forbidden(error: MatrixError) -> MatrixError:
    """For writes: a room that is unknown here is one that the user isn't in (403)."""
    if error.status == 404:
        return errors.forbidden(NOT_IN_ROOM)
    return error
