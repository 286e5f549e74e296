"""Finds the servers that must be told of the devices of local users.

Rules:
1. A change of a user's devices concerns all servers that share a room with the user.
2. When a user joins a room, the whole list concerns the servers in it that shared no room with the
   user before: they have received none of the changes.
3. Both are looked up after the commit. Until then no destination's cursor passes the position;
   after a crash the servers are found from the tables (`OwedTables.owed`).

Spec: server-server API, "Device Management".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection

import msgspec

from federation.events import event_types
from federation.events.ids import RoomId, ServerName, UserId, server_of
from homeserver.engine.entries import DeviceListEntry, EventEntry, Placed, StateEntry
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.store import MembershipStore


class ListChange(msgspec.Struct, frozen=True):
    """The reason to tell other servers of a user's devices: a change at a position, or a join of
    `room_id`.
    """

    position: int
    user_id: UserId
    room_id: RoomId | None = None


Found = Callable[[ListChange, Collection[ServerName]], None]


class DeviceListAudience:
    """The changes that aren't looked up yet, oldest first."""

    def __init__(self, store: MembershipStore, rooms: Rooms, own: ServerName) -> None:
        self._store, self._rooms, self._own = store, rooms, own
        self._waiting: deque[ListChange] = deque()
        self._arrived = asyncio.Event()

    def settled_upto(self, end: int) -> int:
        """Returns the position up to which all is looked up; `end` if nothing waits."""
        return min(end, self._waiting[0].position - 1) if self._waiting else end

    def note(self, placed: Placed) -> None:
        """Adds a commit's changes of local devices and members."""
        entry = placed.entry
        if isinstance(entry, DeviceListEntry):
            self._add(ListChange(placed.position, entry.user_id))
        elif isinstance(entry, EventEntry | StateEntry):
            for change in entry.changes:
                kind, user_id = change.key
                is_join = change.membership == "join" and change.former != "join"
                if kind == event_types.MEMBER and is_join:
                    self._add(ListChange(placed.position, UserId(user_id), entry.room_id))

    def _add(self, change: ListChange) -> None:
        if server_of(change.user_id) == self._own:
            self._waiting.append(change)
            self._arrived.set()

    async def run(self, found: Found) -> None:
        """Looks up waiting changes until cancelled: `found` is called with each change and its
        servers.
        """
        while True:  # the rest of a failed run comes first
            while self._waiting:
                change = self._waiting[0]
                servers = await self._servers(change)
                self._waiting.popleft()
                found(change, servers)
            self._arrived.clear()
            await self._arrived.wait()

    async def _servers(self, change: ListChange) -> Collection[ServerName]:
        if change.room_id is None:
            return _names(await self._store.servers_sharing(change.user_id, self._own))
        room = self._rooms.hot(change.room_id)
        if room is not None and set(room.view.servers) <= {self._own}:
            return []  # there is no server to tell
        return _names(
            await self._store.servers_shown(
                change.room_id, change.user_id, self._own, position=change.position
            )
        )


def _names(servers: Collection[str]) -> list[ServerName]:
    return [ServerName(one) for one in servers]
