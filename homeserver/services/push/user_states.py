"""What users have read and their counts, in memory and stored.

Rules:
1. Changes are made in memory at once, and collected until `store` writes them in one transaction:
   what is in memory is always what is stored with the changes in `writes`.
2. The state of a user who has just read or spoken in a room is kept: they do so again, and it would
   be read for each message. What is changed elsewhere, by a redaction or a sum, is let go of.
3. The counts of a user are kept while they sync. What isn't kept is read when it is needed; whoever
   reads it has made sure that nothing is collected, or reads what the collected changes don't
   concern.

Spec: client-server API, "Marking notifications as read".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from federation.bounded_cache import BoundedCache
from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.rules.push.unread import (
    NEVER,
    NONE,
    WHOLE_ROOM,
    EventLevels,
    ReadMarks,
    ThreadCounts,
    summed,
    unread,
)
from homeserver.services.push.pending import PendingEvents
from homeserver.storage.database import Database
from homeserver.storage.push.unread import PushWrites, RoomState, UnreadTable

UserRoom: TypeAlias = tuple[RoomId, UserId]

_NOTHING: Final[ThreadCounts] = {}


class UserCounts:
    """A user's counts in the rooms that they are in, as they are now."""

    def __init__(
        self, user_id: UserId, stored: dict[RoomId, ThreadCounts], pending: PendingEvents
    ) -> None:
        self._user_id, self._stored, self._pending = user_id, stored, pending

    def __getitem__(self, room_id: RoomId) -> ThreadCounts:
        """Returns the counts of a room, by thread."""
        stored, room = self._stored.get(room_id, _NOTHING), self._pending.room(room_id)
        return stored if room is None else summed(stored, room.counts(self._user_id))


class UserStates:
    """The states of all users in their rooms. `writes` are the changes that aren't stored yet."""

    def __init__(self, database: Database) -> None:
        self._table = UnreadTable(database)
        self.pending = PendingEvents()
        self.writes = PushWrites()
        self._users: BoundedCache[UserId, dict[RoomId, ThreadCounts]] = BoundedCache(
            limits.PUSH_USERS_CACHED
        )
        self._stored: BoundedCache[UserRoom, RoomState] = BoundedCache(limits.PUSH_STATES_CACHED)

    async def start(self, end: int) -> int:
        """Takes over what is stored; returns the position up to which that is: `end`, the log's, if
        nothing was ever stored."""
        self.pending = PendingEvents()
        self._stored.clear()
        self.pending.load(await self._table.pending())
        stored = await self._table.position()
        self.writes.position = end if stored is None else stored
        return self.writes.position

    async def redacted(self) -> list[tuple[RoomId, EventId]]:
        """Returns the redacted events that a former process has not taken back."""
        return await self._table.redacted()

    def known(self, user_id: UserId) -> UserCounts | None:
        """Returns a user's counts if they are in memory."""
        stored = self._users.get(user_id)
        return None if stored is None else UserCounts(user_id, stored, self.pending)

    async def load(self, user_id: UserId) -> UserCounts:
        """Returns a user's counts, read and kept. *Precondition:* all changes are stored."""
        stored = await self._table.of_user(user_id)
        self._users.put(user_id, stored)
        return UserCounts(user_id, stored, self.pending)

    async def store(self) -> None:
        """Stores the changes; if that fails, they are kept."""
        writes = self.writes
        await self._table.write(writes)
        self.writes = PushWrites(writes.position)
        if writes.redacted:
            self._stored.clear()
            return
        for key, state in writes.states.items():
            kept = RoomState(
                state.marks, state.counts, state.counted_to, had_counts=bool(state.counts)
            )
            self._stored.put(key, kept)

    def add(self, room_id: RoomId, event: EventLevels) -> None:
        """Adds an event that notifies somebody."""
        self.writes.events.append((room_id, event))
        if self.pending.add(room_id, event):
            self.writes.opened.add(room_id)

    def redact(self, room_id: RoomId, event_id: EventId) -> None:
        """Takes an event back; the counts that it may have been in are read again."""
        self.writes.redacted.append(event_id)
        self.pending.remove(room_id, event_id)
        for user_id in [user for user, counts in self._users.items() if room_id in counts]:
            self._users.pop(user_id)

    async def read(self, key: UserRoom, thread: str, place: int) -> RoomState | None:
        """Returns the state of a user who has read a thread ("" for all) up to a place; None if it
        is as before. Nothing is changed yet."""
        room_id, user_id = key
        state = self.writes.states.get(key) or self._stored.get(key)
        if state is None:
            state = await self._table.state_of(room_id, user_id)
        if place <= state.marks.of(thread):
            return None
        marks = state.marks.copy()
        marks.move(thread, place)
        room = self.pending.room(room_id)
        pending: ThreadCounts = {}
        if room is not None and not room.is_read(thread, place):
            pending = room.counts(user_id)
        counts = summed(state.counts, pending) if pending else state.counts
        if thread in counts or (thread == WHOLE_ROOM and counts):
            left = await self._left(key, state, marks, thread)
            read = [one for one in counts if thread in (WHOLE_ROOM, one)]
            counts = summed({**counts, **{one: left.get(one, NONE) for one in read}})
        return RoomState(
            marks,
            counts,
            max(place, NEVER if room is None else room.last, state.counted_to),
            {*state.moved, thread},
            had_counts=state.had_counts,
            is_new=state.is_new,
        )

    async def _left(
        self, key: UserRoom, state: RoomState, marks: ReadMarks, thread: str
    ) -> ThreadCounts:
        """Returns what a user hasn't read of a thread ("" for all) by new marks."""
        room_id, user_id = key
        room = self.pending.room(room_id)
        if room is not None and room.events and marks.of(thread) >= room.last:
            return {}  # all events, also those that were summed, stand before
        if thread in state.counts or (thread == WHOLE_ROOM and state.counts):
            stored = await self._table.count(room_id, user_id, marks, thread)
            unstored = [one for of_room, one in self.writes.events if of_room == room_id]
            return summed(stored, unread(unstored, user_id, marks, after=NEVER))
        if room is None:
            return {}
        after = max(room.counted_to.get(user_id, NEVER), marks.of(thread))
        return unread(room.after(after), user_id, marks, after=after)

    def set(self, key: UserRoom, state: RoomState) -> None:
        """Replaces the state of a user in a room."""
        room_id, user_id = key
        if key in self.writes.gone:
            state.is_new = True
            self.writes.gone.discard(key)
        self.writes.states[key] = state
        room, cached = self.pending.room(room_id), self._users.get(user_id)
        if room is not None:
            room.counted_to[user_id] = state.counted_to
        if cached is not None:
            cached[room_id] = state.counts

    def forget(self, key: UserRoom) -> None:
        """Drops the state of a user who has left a room."""
        room_id, user_id = key
        self.writes.states.pop(key, None)
        self._stored.pop(key)
        self.writes.gone.add(key)
        room, cached = self.pending.room(room_id), self._users.get(user_id)
        if room is not None:
            room.counted_to.pop(user_id, None)
        if cached is not None:
            cached.pop(room_id, None)

    async def sum_room(self, room_id: RoomId, members: Iterable[UserId]) -> None:
        """Adds the events of a room to the counts of its members. *Precondition:* all changes are
        stored."""
        room = self.pending.room(room_id)
        assert room is not None, "it has events"
        total = room.sum_for(room_id, members)
        await self._table.write(PushWrites(self.writes.position, sums=[total]))
        self.pending.pop(room_id)
        for key in [key for key in self._stored if key[0] == room_id]:
            self._stored.pop(key)
        for user_id, counts in total.added:
            cached = self._users.get(user_id)
            if cached is not None:
                cached[room_id] = summed(cached.get(room_id, {}), counts)
