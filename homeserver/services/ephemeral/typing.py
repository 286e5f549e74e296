"""Typing users of rooms. Kept only in memory: it has no meaning after a restart.

Rules:
1. Changes have a counter of their own, with a boot number: neither a log position nor a number that
   a restart could give out again (design, "What keeps it right", rule 10).
2. Typing ends after a time-out unless it is repeated. One task waits for the earliest time-out;
   there is no timer for each user.
3. Only joined users type; typing users beyond the bound of a room are left out.

Spec: client-server API, "Typing notifications"; server-server API, "Typing notifications".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from federation.events import event_types
from federation.events.ids import RoomId, ServerName, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateEntry
from homeserver.errors import bad_json, forbidden
from homeserver.services.rooms.room_access import MemberRooms

Announce = Callable[[RoomId, UserId, bool], None]


class TypingToken(msgspec.Struct, frozen=True):
    """A point in the history of typing; a token of another boot says nothing."""

    boot: int
    count: int


def new_boot(random_bytes: Callable[[int], bytes]) -> int:
    """Returns a boot number: 31 random bits, so that two starts have the same one hardly ever."""
    return int.from_bytes(random_bytes(4), "big") >> 1


class _RoomTyping:
    """One room: the time until which each user types (monotonic seconds), and the count of its last
    change.
    """

    __slots__ = ("change", "until")

    def __init__(self) -> None:
        self.until: dict[UserId, float] = {}
        self.change = 0


class Typing:
    """Typing in all rooms."""

    def __init__(
        self,
        *,
        rooms: MemberRooms,
        clock: Clock,
        boot: int,
        wake_room: Callable[[RoomId], None],
        announce: Announce,
    ) -> None:
        """`wake_room` wakes the syncs of the room; `announce` is called for local users, to tell
        other servers. `boot` differs with each start."""
        self._rooms, self._clock = rooms, clock
        self._boot, self._count = boot, 0
        self._wake_room, self._announce = wake_room, announce
        self._typing: dict[RoomId, _RoomTyping] = {}
        self._active: set[RoomId] = set()
        self._changed = asyncio.Event()

    @property
    def token(self) -> TypingToken:
        """Returns the current token, for the end of a sync answer."""
        return TypingToken(self._boot, self._count)

    def since(self, room_id: RoomId, token: TypingToken | None) -> Sequence[UserId] | None:
        """Returns the typing users of a room, if they changed after `token`; None if they didn't.
        Without a token, or with one of another boot: the current ones, None if there are none."""
        room = self._typing.get(room_id)
        if room is None:
            return None
        users = tuple(sorted(room.until))
        if token is None or token.boot != self._boot:
            return users or None
        return users if room.change > token.count else None

    def now(self, room_id: RoomId) -> Sequence[UserId]:
        """Returns the users who type in a room now."""
        return self.since(room_id, None) or ()

    async def set(
        self, user_id: UserId, room_id: RoomId, *, typing: object, timeout_ms: object
    ) -> None:
        """PUT /rooms/{roomId}/typing/{userId} of a local user. 403 unless joined."""
        if not isinstance(typing, bool):
            raise bad_json("typing must be a boolean")
        if timeout_ms is None:
            timeout_ms = limits.TYPING_TIMEOUT_MS_DEFAULT
        if not isinstance(timeout_ms, int) or isinstance(timeout_ms, bool) or timeout_ms < 0:
            raise bad_json("timeout must be a number of milliseconds")
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined_local:
            raise forbidden("You aren't joined to the room")
        timeout_ms = min(timeout_ms, limits.TYPING_TIMEOUT_MS_MAX)
        if self._set(room_id, user_id, timeout_ms if typing else 0) or typing:
            self._announce(room_id, user_id, typing)

    async def receive(
        self, origin: ServerName, room_id: RoomId, user_id: UserId, typing: bool
    ) -> None:
        """Handles an m.typing EDU of a user of `origin`; it counts if they are joined."""
        room = await self._rooms.get(room_id)
        if room is None or not room.joined_local or not room.is_joined(user_id):
            return
        self._set(room_id, user_id, limits.TYPING_REMOTE_MS if typing else 0)

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log: ends typing of users who sent a message or left."""
        for placed in batch:
            entry = placed.entry
            if not isinstance(entry, EventEntry | StateEntry) or entry.room_id not in self._active:
                continue
            if isinstance(entry, EventEntry) and not entry.event.is_state:
                self.stop(entry.room_id, entry.event.sender, is_ours=entry.to_federate)
            for change in entry.changes:
                if change.key[0] == event_types.MEMBER and change.membership != "join":
                    self.stop(entry.room_id, UserId(change.key[1]))

    def stop(self, room_id: RoomId, user_id: UserId, *, is_ours: bool = False) -> None:
        """Ends typing of a user who left the room or sent a message; other servers are told of
        local users.
        """
        if self._set(room_id, user_id, 0) and is_ours:
            self._announce(room_id, user_id, False)

    def _set(self, room_id: RoomId, user_id: UserId, timeout_ms: int) -> bool:
        """Returns True if the typing users changed."""
        room = self._typing.get(room_id)
        is_typing = room is not None and user_id in room.until
        if not timeout_ms:
            if room is None or not is_typing:
                return False
            del room.until[user_id]
            self._note(room_id, room)
            return True
        if room is None:
            room = self._typing[room_id] = _RoomTyping()
        if not is_typing and len(room.until) >= limits.TYPING_USERS_PER_ROOM:
            return False
        self._active.add(room_id)
        room.until[user_id] = self._clock.monotonic_s() + timeout_ms / 1000
        if not is_typing:
            self._note(room_id, room)
        return not is_typing

    def _note(self, room_id: RoomId, room: _RoomTyping) -> None:
        self._count += 1
        room.change = self._count
        self._changed.set()
        self._wake_room(room_id)

    def expire(self) -> float | None:
        """Ends typing that timed out; returns the seconds until the next time-out, None if there is
        none.
        """
        now_s = self._clock.monotonic_s()
        next_s: float | None = None
        for room_id in list(self._active):
            room = self._typing[room_id]
            gone = [user_id for user_id, until_s in room.until.items() if until_s <= now_s]
            for user_id in gone:
                del room.until[user_id]
            if gone:
                self._note(room_id, room)
            if not room.until:
                self._active.discard(room_id)
            for until_s in room.until.values():
                next_s = until_s if next_s is None else min(next_s, until_s)
        return None if next_s is None else next_s - now_s

    async def run(self) -> None:
        """Runs under the supervisor until cancelled: ends typing that timed out."""
        while True:
            self._changed.clear()
            wait_s = self.expire()
            if wait_s is None:
                await self._changed.wait()
            else:
                # Short, since a time-out that begins in the meantime may end sooner.
                wait_s = min(max(wait_s, limits.TYPING_CHECK_S_MIN), limits.TYPING_CHECK_S_MAX)
                await self._clock.sleep(wait_s)
