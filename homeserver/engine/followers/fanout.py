"""After the commit: wakes the syncs that wait for something in the batch.

A waiter is created before the log is first read, so that nothing committed in between is missed.
The cost of a message depends on the waiters: the smaller of the room's members and the waiting
users is walked. Many waiters are woken in slices, one with each pass of the event loop: each builds
an answer, and all of these at once would delay other requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from federation.events import event_types
from federation.events.ids import DeviceId, RoomId, ServerName, UserId, server_of
from homeserver import limits
from homeserver.engine.entries import (
    AccountDataEntry,
    DeviceListEntry,
    EventEntry,
    MembershipEntry,
    Placed,
    ReceiptEntry,
    StateChange,
    StateEntry,
    ToDeviceEntry,
)
from homeserver.engine.followers.memberships import Memberships
from homeserver.engine.log.committer import Committer
from homeserver.engine.rooms.rooms import Room, Rooms


class Waiter:
    """One long poll of a user's device."""

    def __init__(self, fanout: Fanout, user_id: UserId, device_id: DeviceId) -> None:
        self._fanout = fanout
        self.user_id = user_id
        self.device_id = device_id
        self.is_next = False  # in a slice that is woken soon
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """Wakes the waiter: something concerns the user."""
        if not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Waits until woken; returns False after the time-out. Afterwards it can be woken again."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._woken)
        except TimeoutError:
            return False
        self._woken = asyncio.get_running_loop().create_future()
        return True

    def close(self) -> None:
        """Ends the wait."""
        self._fanout.leave(self)


class Fanout:
    """Knows the waiters; is told of each commit."""

    def __init__(self, rooms: Rooms, memberships: Memberships, server_name: ServerName) -> None:
        self._rooms = rooms
        self._memberships = memberships
        self._server_name = server_name
        self._waiting: dict[UserId, set[Waiter]] = {}
        self._to_wake: deque[Waiter] = deque()  # of the next slices
        self._woken_now = 0  # in this pass of the loop
        self._committer: Committer | None = None

    def follow(self, committer: Committer) -> None:
        """Follows the log from now on; after all other followers."""
        self._committer = committer
        committer.subscribe(self.published)

    def subscribe(self, follower: Callable[[Sequence[Placed]], None]) -> None:
        """Registers `follower`, which is called right after each commit."""
        assert self._committer is not None, "the fan-out follows no log"
        self._committer.subscribe(follower)

    def waiter(self, user_id: UserId, device_id: DeviceId) -> Waiter:
        """Returns a new waiter, to be closed."""
        waiter = Waiter(self, user_id, device_id)
        self._waiting.setdefault(user_id, set()).add(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Removes a closed waiter."""
        waiters = self._waiting.get(waiter.user_id)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[waiter.user_id]

    def wake_user(self, user_id: UserId) -> None:
        """Wakes all waiters of a user."""
        for waiter in self._waiting.get(user_id, ()):
            self._wake(waiter)

    def _wake(self, waiter: Waiter) -> None:
        if self._woken_now == 0:
            asyncio.get_running_loop().call_soon(self._next_slice)
        if self._woken_now < limits.WOKEN_AT_ONCE:
            self._woken_now += 1
            waiter.wake()
        elif not waiter.is_next:
            waiter.is_next = True
            self._to_wake.append(waiter)

    def _next_slice(self) -> None:
        self._woken_now = 0
        for _ in range(min(len(self._to_wake), limits.WOKEN_AT_ONCE)):
            waiter = self._to_wake.popleft()
            waiter.is_next = False
            self._wake(waiter)

    def wake_room(self, room: Room) -> None:
        """Wakes the joined users of a room."""
        joined, waiting = room.joined_local, self._waiting
        if len(joined) < len(waiting):
            for user_id in joined:
                if user_id in waiting:
                    self.wake_user(user_id)
        else:
            for user_id in list(waiting):
                if user_id in joined:
                    self.wake_user(user_id)

    def published(self, batch: Sequence[Placed]) -> None:
        """Wakes the users that a committed batch concerns."""
        if not self._waiting:
            return
        rooms: set[RoomId] = set()
        for placed in batch:
            entry = placed.entry
            match entry:
                case EventEntry() | StateEntry():
                    rooms.add(entry.room_id)
                    self._wake_members(entry.changes)
                case ReceiptEntry():
                    rooms.add(entry.room_id)
                case AccountDataEntry() | ToDeviceEntry() | MembershipEntry():
                    self.wake_user(entry.user_id)
                case DeviceListEntry():
                    self._wake_sharers(entry.user_id)
                case _:
                    continue
        for room_id in rooms:
            room = self._rooms.hot(room_id)
            if room is not None:
                self.wake_room(room)

    def _wake_members(self, changes: Sequence[StateChange]) -> None:
        """Wakes invited, leaving and banned users: they aren't joined, but are concerned."""
        for change in changes:
            kind, user = change.key
            if kind == event_types.MEMBER and server_of(user) == self._server_name:
                self.wake_user(UserId(user))

    def _wake_sharers(self, changed: UserId) -> None:
        """Wakes the waiting users who share a room with one whose devices changed. It uses memory
        alone: a waiting user's rooms were loaded for its sync, and members are read only of hot
        rooms; a user with cold rooms is woken to check for itself."""
        self.wake_user(changed)
        own = self._memberships.cached(changed)
        if own is not None:
            kept = ("join", "invite")
            rooms = [self._rooms.hot(one) for one, my in own.items() if my.membership in kept]
            if None not in rooms:
                for room in rooms:
                    assert room is not None
                    self.wake_room(room)
                return
        for user_id in list(self._waiting):
            if user_id != changed and self._may_share(user_id, changed):
                self.wake_user(user_id)

    def _may_share(self, user_id: UserId, other: UserId) -> bool:
        own = self._memberships.cached(user_id)
        if own is None:
            return True
        for room_id, membership in own.items():
            if membership.membership != "join":
                continue
            room = self._rooms.hot(room_id)
            if room is None:
                return True
            ref = room.view.state.get((event_types.MEMBER, other))
            if ref is not None and ref.membership in ("join", "invite"):
                return True
        return False
