"""Read access to rooms: the users who may read a room, and the state that each of them sees.

Rules:
1. A joined user reads current state; of a world-readable room, any user does.
2. A user who was joined once reads the state at the end of that time: at the event by which they
   left. A later ban, knock or invite doesn't change that.
3. All other users get 403 M_FORBIDDEN, also for an unknown room: they must not learn whether it
   exists. Forgotten rooms count as never joined.

Spec: client-server API, "Getting events for a room", "Leaving rooms".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId, server_of
from homeserver import errors, limits
from homeserver.engine.followers.memberships import Memberships, UserRoom
from homeserver.engine.local.writer import Writer
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.snapshots import StateRef

NOT_IN_ROOM = "You aren't a member of this room"


@dataclass(frozen=True, slots=True)
class RoomContext:
    """The dependencies of services about rooms: the committed rooms, memberships, and the
    writer.
    """

    rooms: Rooms
    memberships: Memberships
    writer: Writer


class MemberRoom(Protocol):
    """A room's committed members, as far as services of other domains need them."""

    @property
    def joined_local(self) -> Set[UserId]: ...

    @property
    def joined_servers(self) -> Mapping[ServerName, int]: ...

    def is_joined(self, user_id: UserId) -> bool: ...


class MemberRooms(Protocol):
    """Known rooms, by ID (the engine's `Rooms`).

    A Protocol, like the two below: tests of devices and ephemeral data have rooms that are sets of
    members.
    """

    async def get(self, room_id: RoomId) -> MemberRoom | None: ...


class SharedRooms(Protocol):
    """Users who share rooms (the engine's `Memberships`)."""

    async def sharing(self, user_id: UserId, among: Collection[UserId]) -> Set[UserId]:
        """Returns those of some users who are joined or invited to a room that the user is joined
        to.
        """

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomId]: ...


class UserRooms(SharedRooms, Protocol):
    """Known rooms by local user, and users who share them (the engine's `Memberships`)."""

    async def of(self, user_id: UserId) -> Mapping[RoomId, UserRoom]: ...


@dataclass(frozen=True, slots=True)
class ReadableRoom:
    """A room and the state in which a user may see it. `is_current` says that it is the current
    state.
    """

    room: Room
    state: Mapping[StateKey, StateRef]
    is_current: bool


async def servers_of(
    engine: RoomContext, user_id: UserId | None, room_id: RoomId, named: Sequence[ServerName] = ()
) -> Sequence[ServerName]:
    """Returns servers that may be in a room which we aren't in: those that were named, the
    inviter's, the one that took the user's knock, the last known ones, and the one that the room ID
    names."""
    wanted = dict.fromkeys(named)
    own: UserRoom | None = None
    if user_id is not None:
        own = (await engine.memberships.of(user_id)).get(room_id)
    if own is not None and own.membership == "invite":
        wanted[server_of(own.sender)] = None
    if own is not None and own.via is not None:
        wanted[own.via] = None
    room = await engine.rooms.get(room_id)
    if room is not None:
        counts = room.joined_servers
        wanted.update(dict.fromkeys(sorted(counts, key=lambda name: (-counts[name], name))))
    if ":" in room_id:
        wanted[server_of(room_id)] = None
    return tuple(wanted)


def is_resident(room: Room | None) -> bool:
    """Returns whether this server holds the room's current state: it has joined users, or no user
    is left anywhere. Of a room that we left, or were only invited to, other servers know more."""
    if room is None or event_types.CREATE_KEY not in room.view.state:
        return False
    return bool(room.joined_local) or not room.joined_servers


class RoomAccess:
    """Decides on read access to rooms."""

    def __init__(self, engine: RoomContext) -> None:
        self._rooms = engine.rooms
        self._memberships = engine.memberships

    async def joined(self, user_id: UserId, room_id: RoomId) -> Room:
        """Returns the room, if the user is joined; raises 403 M_FORBIDDEN."""
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined_local:
            raise errors.forbidden(NOT_IN_ROOM)
        return room

    async def lets_guests_in(self, room_id: RoomId) -> bool:
        """Returns whether guests may be in a room, by its state as known here."""
        room = await self._rooms.get(room_id)
        if room is None:
            return False
        event = (
            await self._rooms.state_events(room.view.state, [event_types.GUEST_ACCESS_KEY])
        ).get(event_types.GUEST_ACCESS_KEY)
        return event is not None and event.content.get("guest_access") == "can_join"

    async def readable(self, user_id: UserId, room_id: RoomId) -> ReadableRoom:
        """Returns the room as the user may see it; raises 403 M_FORBIDDEN."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise errors.forbidden(NOT_IN_ROOM)
        if user_id in room.joined_local or await self._is_world_readable(room):
            return ReadableRoom(room, room.view.state, is_current=True)
        own = (await self._memberships.of(user_id)).get(room_id)
        if own is None or own.forgotten:
            raise errors.forbidden(NOT_IN_ROOM)
        return ReadableRoom(room, await self._last_seen(room, user_id, own.event_id), False)

    async def _is_world_readable(self, room: Room) -> bool:
        found = await self._rooms.state_events(
            room.view.state, [event_types.HISTORY_VISIBILITY_KEY]
        )
        event = found.get(event_types.HISTORY_VISIBILITY_KEY)
        return event is not None and event.content.get("history_visibility") == "world_readable"

    async def _last_seen(
        self, room: Room, user_id: UserId, latest: EventId
    ) -> Mapping[StateKey, StateRef]:
        """Returns the state after the event by which the user ceased to be joined."""
        ended = await self._rooms.end_of_stay(room, user_id)
        if ended is not None and ended[1] is not None:
            state = await self._rooms.state_after(room, ended[1])
            if state is not None:
                return state
        ref = room.view.state.get((event_types.MEMBER, user_id))
        return await self._last_seen_by_events(room, user_id, ref.event_id if ref else latest)

    async def _last_seen_by_events(
        self, room: Room, user_id: UserId, left: EventId
    ) -> Mapping[StateKey, StateRef]:
        """Returns the same by the membership events: a ban after a leave, or a refused invite,
        leads further back."""
        for _ in range(limits.MEMBERSHIP_STEPS):
            before = await self._rooms.state_before(room, left)
            previous = None if before is None else before.get((event_types.MEMBER, user_id))
            if previous is None:
                break
            if previous.membership == "join":
                after = await self._rooms.state_after(room, left)
                assert after is not None, "the state before an event is known, so that after it is"
                return after
            left = previous.event_id
        raise errors.forbidden(NOT_IN_ROOM)


def as_forbidden(error: MatrixError) -> MatrixError:
    """Returns the error for writes: a room that is unknown here is one that the user isn't in
    (403).
    """
    if error.status == 404:
        return errors.forbidden(NOT_IN_ROOM)
    return error
