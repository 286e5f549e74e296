"""The rooms of users whose presence is known: who shares one with whom, answered from memory.

Rules:
1. Rooms are read from the table once, then follow the log. A change during the read counts more
   than what was read.
2. Only rooms with a user of this server count: of others nothing is heard any more.
3. In a room that the first local user joins, members of other servers were there before, without
   an entry of the log: they are looked up in the room.

Spec: client-server API, "Presence" ("published to all users who share a room").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from typing import Protocol

from federation.events import event_types
from federation.events.ids import RoomId, ServerName, UserId, server_of
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateChange, StateEntry
from homeserver.services.rooms.room_access import MemberRoom
from homeserver.storage.rooms.memberships import UserRoomRow

LoadRooms = Callable[[Sequence[UserId]], Awaitable[Iterable[UserRoomRow]]]
"""Returns the rooms that users are joined to, of those with a local user."""

_NO_ROOMS: frozenset[RoomId] = frozenset()


class HotMembers(Protocol):
    """Rooms in memory (the engine's `Rooms`).

    A Protocol: tests have rooms that are sets of members.
    """

    def hot(self, room_id: RoomId) -> MemberRoom | None: ...


class _Read:
    """The changes during a read of the table."""

    def __init__(self, users: Set[UserId]) -> None:
        self.users = users
        self.changes: dict[tuple[UserId, RoomId], bool] = {}


class PresenceRooms:
    """Sets of rooms, by user."""

    def __init__(self, server_name: ServerName, rooms: HotMembers, load: LoadRooms) -> None:
        self._server_name, self._hot, self._load = server_name, rooms, load
        self._rooms: dict[UserId, set[RoomId]] = {}
        self._reads: list[_Read] = []
        self.pairs = 0

    def of(self, user_id: UserId) -> Set[RoomId]:
        """Returns the rooms of a user; none if they weren't read."""
        return self._rooms.get(user_id, _NO_ROOMS)

    def knows(self, user_id: UserId) -> bool:
        """Returns whether the rooms of a user were read."""
        return user_id in self._rooms

    def share(self, rooms: Set[RoomId], user_id: UserId) -> bool:
        """Returns whether a user is in one of these rooms."""
        own = self._rooms.get(user_id)
        return own is not None and not own.isdisjoint(rooms)

    async def look_up(self, user_id: UserId) -> Set[RoomId]:
        """Returns the rooms of a user, who needn't be known afterwards."""
        known = self._rooms.get(user_id)
        if known is not None:
            return known
        return {row.room_id for row in await self._load([user_id])}

    async def read(self, user_ids: Iterable[UserId]) -> None:
        """Reads the rooms of users. Users of other servers who share no room, or for whom there is
        no place, stay unknown."""
        wanted = frozenset(one for one in user_ids if one not in self._rooms)
        if not wanted:
            return
        read = _Read(wanted)
        self._reads.append(read)
        try:
            found = await self._load(sorted(wanted))
        finally:
            self._reads.remove(read)
        rooms: dict[UserId, set[RoomId]] = {user_id: set() for user_id in wanted}
        for row in found:
            rooms[row.user_id].add(row.room_id)
        for (user_id, room_id), is_in in read.changes.items():
            (rooms[user_id].add if is_in else rooms[user_id].discard)(room_id)
        for user_id, own in rooms.items():
            self._keep(user_id, own)

    def _keep(self, user_id: UserId, rooms: set[RoomId]) -> None:
        is_local = server_of(user_id) == self._server_name
        is_full = self.pairs + len(rooms) > limits.PRESENCE_ROOMS_IN_ALL
        if user_id in self._rooms or (not is_local and (is_full or not rooms)):
            return
        self._rooms[user_id] = rooms
        self.pairs += len(rooms)

    def drop(self, user_id: UserId) -> None:
        """Forgets the rooms of a user."""
        self.pairs -= len(self._rooms.pop(user_id, ()))

    # Following the log

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        for placed in batch:
            entry = placed.entry
            if isinstance(entry, EventEntry | StateEntry):
                for change in entry.changes:
                    if change.key[0] == event_types.MEMBER:
                        self._note(entry.room_id, change)

    def _note(self, room_id: RoomId, change: StateChange) -> None:
        user_id, is_in = UserId(change.key[1]), change.membership == "join"
        room = self._hot.hot(room_id)
        if server_of(user_id) != self._server_name:  # a room without users of ours isn't shared
            self._set(user_id, room_id, is_in and (room is None or bool(room.joined_local)))
            return
        self._set(user_id, room_id, is_in)
        if is_in == (change.former == "join"):
            return
        if room is None or len(room.joined_servers) < 1 + is_in:
            return  # nobody else is there
        if len(room.joined_local) == int(is_in):
            self._note_others(room_id, room, is_in=is_in)

    def _note_others(self, room_id: RoomId, room: MemberRoom, *, is_in: bool) -> None:
        """Notes the room of members of other servers: the first local user came, or the last one
        left."""
        users = [*self._rooms, *(one for read in self._reads for one in read.users)]
        for user_id in users:
            if server_of(user_id) != self._server_name:
                self._set(user_id, room_id, is_in and room.is_joined(user_id))

    def _set(self, user_id: UserId, room_id: RoomId, is_in: bool) -> None:
        for read in self._reads:
            if user_id in read.users:
                read.changes[user_id, room_id] = is_in
        own = self._rooms.get(user_id)
        if own is None or (room_id in own) == is_in:
            return
        if is_in:
            own.add(room_id)
            self.pairs += 1
        else:
            own.remove(room_id)
            self.pairs -= 1
