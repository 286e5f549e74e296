"""The data owed to other servers, derived from the log (`federation.ports.OutboundFeed`).

Rules:
1. A destination is owed our events in rooms where it was a member before or after them, messages to
   its users' devices, and the devices of local users who share a room with it
   (`DeviceListAudience`; design, "What keeps it right", 13).
2. Near the log's end the answer comes from memory: the data owed to each destination is noted at
   the commit. Before that, the tables are read.
3. Data is owed until it is received: no cursor passes messages to devices or device lists, however
   old they are. After a long outage only events are reduced, to those that lead to the rest.
4. Ephemeral data (typing, receipts) is only in memory; beyond the bound, the oldest goes.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec
import orjson

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName, UserId, is_user_id, server_of
from federation.ports import Destination, DestinationStore, Owed
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, ReceiptEntry, RemoteEduEntry, StateChange
from homeserver.engine.followers.device_list_audience import DeviceListAudience, ListChange
from homeserver.engine.log.committer import Committer
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.store import EngineStore, OwedTables
from homeserver.rules.ephemeral.receipts import READ

_OUT = ("leave", "ban")
_ITEM_BYTES = 150


class DeviceListEdus(Protocol):
    """Builds the EDUs with users' current devices.

    A Protocol: what builds them is a service (`services.encryption.device_list_edus`), and services
    stand above the engine.
    """

    async def changes(self, positions: Sequence[int]) -> list[JsonObject]:
        """Returns the EDUs of changes of device lists, by their positions."""

    async def whole_lists(self, users: Sequence[UserId]) -> list[JsonObject]:
        """Returns the EDUs of all devices of users, for servers that have received none before."""


class _Item(msgspec.Struct, frozen=True, order=True):
    """One owed item. Without payload: the device-list change at its position, or the whole list of
    `joined`."""

    position: int
    pdu: bytes = b""
    edu: bytes = b""
    joined: str = ""

    @property
    def bytes(self) -> int:
        """Its rough size in memory; a PDU's bytes may be shared with other queues."""
        return _ITEM_BYTES + len(self.pdu) + len(self.edu)


class _Memory:
    """The memory of all queues."""

    def __init__(self) -> None:
        self.bytes = 0


class _Queue:
    """The data owed to one destination after `start`, complete."""

    def __init__(self, server: ServerName, start: int, memory: _Memory) -> None:
        self.server = server
        self.start = start
        self.bytes = 0
        self._memory = memory
        self.items: deque[_Item] = deque()
        self.passing: deque[JsonObject] = deque(maxlen=limits.PASSING_EDUS)

    def add(self, item: _Item) -> None:
        """Adds an item in order; items over the bound are read from the tables later."""
        if item.position <= self.start:
            return  # found late: the tables have it
        if self.items and item < self.items[-1]:
            items = list(self.items)
            insort(items, item)
            self.items = deque(items)
        else:
            self.items.append(item)
        self._count(item.bytes)
        if (
            len(self.items) > limits.OWED_IN_MEMORY
            or self.bytes > limits.OWED_BYTES_PER_DESTINATION
            or self._memory.bytes > limits.OWED_BYTES_IN_ALL
        ):
            self.start = self.items[-1].position
            self.items.clear()
            self._count(-self.bytes)

    def taken(self, up_to: int) -> None:
        """Drops the items that the destination has received."""
        while self.items and self.items[0].position <= up_to:
            self._count(-self.items.popleft().bytes)

    def _count(self, size: int) -> None:
        self.bytes += size
        self._memory.bytes += size


class LogFeed:
    """The log as queues of other servers."""

    def __init__(
        self,
        store: EngineStore,
        committer: Committer,
        rooms: Rooms,
        *,
        server_name: ServerName,
        device_list_edus: DeviceListEdus,
    ) -> None:
        self._store = store
        self._committer = committer
        self._rooms = rooms
        self.server_name = server_name
        self._device_list_edus = device_list_edus
        self._start = committer.position
        self._queues: dict[ServerName, _Queue] = {}
        self._memory = _Memory()
        self._audience = DeviceListAudience(store.memberships, rooms, server_name)
        self._held_back: set[ServerName] = set()
        self._given_out: dict[ServerName, int] = {}  # the newest stored EDU of each
        self._on_owed: list[Callable[[Collection[ServerName]], None]] = []
        committer.subscribe(self._published)

    def took_edus(self, destination: ServerName, cursor: int) -> bool:
        """Returns whether stored EDUs up to the cursor were handed out to it since the last such
        answer: they can be deleted."""
        if self._given_out.get(destination, cursor + 1) > cursor:
            return False
        del self._given_out[destination]
        return True

    def subscribe(self, on_owed: Callable[[Collection[ServerName]], None]) -> None:
        """`OutboundFeed.subscribe`."""
        self._on_owed.append(on_owed)

    # Following the log

    def _published(self, batch: Sequence[Placed]) -> None:
        concerned: set[ServerName] = set()
        for placed in batch:
            entry = placed.entry
            self._audience.note(placed)
            if isinstance(entry, EventEntry):
                if entry.to_federate:
                    concerned |= self._note_event(placed.position, entry)
            elif isinstance(entry, RemoteEduEntry):
                self._queue(entry.destination).add(_Item(placed.position, edu=entry.edu))
                concerned.add(entry.destination)
            elif isinstance(entry, ReceiptEntry):
                self._pass_receipt(entry)
        self._tell(concerned)

    def _is_ours(self, user_id: UserId) -> bool:
        return server_of(user_id) == self.server_name

    def forward(self, servers: Collection[ServerName], edu: JsonObject) -> None:
        """Sends an ephemeral EDU, which isn't stored."""
        others = [server for server in servers if server != self.server_name]
        for server in others:
            self._queue(server).passing.append(edu)
        self._tell(others)

    def _pass_receipt(self, entry: ReceiptEntry) -> None:
        room = self._rooms.hot(entry.room_id)
        if room is None or entry.kind != READ or not self._is_ours(entry.user_id):
            return
        data: JsonObject = {"ts": entry.ts}
        if entry.thread:
            data["thread_id"] = entry.thread
        receipt = {entry.user_id: {"data": data, "event_ids": [entry.event_id]}}
        content = {entry.room_id: {READ: receipt}}
        self.forward(room.view.servers, {"edu_type": event_types.RECEIPT, "content": content})

    def _note_event(self, position: int, entry: EventEntry) -> set[ServerName]:
        room = self._rooms.hot(entry.room_id)
        assert room is not None, "a room with a fresh commit is in memory"
        servers = set(room.view.servers)
        servers.update(server_of(change.key[1]) for change in entry.changes if _is_end(change))
        servers -= {self.server_name, server_of(entry.event.sender)}
        for server in servers:
            self._queue(server).add(_Item(position, pdu=entry.event.raw))
        return servers | self._catch_up_newcomer(position, entry, room)

    def _catch_up_newcomer(self, position: int, entry: EventEntry, room: Room) -> set[ServerName]:
        """Adds the other heads for a server whose join came beside other events: it got the state
        before its join, and no server sends it earlier events."""
        newcomer = server_of(entry.event.sender)
        is_first = room.view.servers.get(newcomer) == 1
        joined = any(
            change.membership == "join" and change.event_id == entry.event.event_id
            for change in entry.changes
        )
        if newcomer == self.server_name or not is_first or not joined:
            return set()
        others = [
            known.event.raw
            for head in room.view.heads
            if head.event_id != entry.event.event_id
            and (known := self._rooms.memory.known(head.event_id)) is not None
        ]
        for raw in others:
            self._queue(newcomer).add(_Item(position, pdu=raw))
        return {newcomer} if others else set()

    def _queue(self, server: ServerName) -> _Queue:
        queue = self._queues.get(server)
        if queue is None:
            queue = self._queues[server] = _Queue(server, self._start, self._memory)
        return queue

    def _tell(self, servers: Collection[ServerName]) -> None:
        if servers:
            for on_owed in self._on_owed:
                on_owed(servers)

    async def run(self) -> None:
        """Finds the servers that changes of device lists concern; runs under the supervisor."""
        await self._audience.run(self._owe_list)

    def _owe_list(self, change: ListChange, servers: Collection[ServerName]) -> None:
        item = _Item(change.position, joined=change.user_id if change.room_id else "")
        for server in servers:
            self._queue(server).add(item)
        held_back, self._held_back = self._held_back, set()
        self._tell(held_back.union(servers))

    # Answers

    async def owed(
        self, destination: ServerName, after: int, *, pdu_limit: int, edu_limit: int
    ) -> Owed:
        """`OutboundFeed.owed`."""
        end = self._settled_for(destination)
        queue = self._queue(destination)
        queue.taken(after)
        if after < queue.start:
            return await self._from_tables(destination, after, min(end, queue.start), pdu_limit)
        return await self._from_memory(queue, end, pdu_limit, edu_limit)

    def _settled_for(self, destination: ServerName) -> int:
        """Returns the position up to which the data owed to a destination is known; the destination
        is woken when it moves on.
        """
        end = self._audience.settled_upto(self._committer.position)
        if end < self._committer.position:
            self._held_back.add(destination)
        return end

    async def _from_memory(self, queue: _Queue, end: int, pdu_limit: int, edu_limit: int) -> Owed:
        pdus: list[bytes] = []
        edus: list[JsonObject] = []
        last = -1
        for item in list(queue.items):
            if item.position > end:
                break
            is_full = len(pdus) >= pdu_limit or len(edus) >= edu_limit - limits.EDUS_PER_LIST
            if is_full and item.position > last:  # items at one position are sent together
                return Owed(pdus, edus, last, more=True)
            last = item.position
            if item.pdu:
                pdus.append(item.pdu)
            elif item.edu:
                edus.append(orjson.loads(item.edu))
                self._given_out[queue.server] = last
            elif item.joined:
                edus += await self._device_list_edus.whole_lists([UserId(item.joined)])
            else:
                edus += await self._device_list_edus.changes([last])
        while queue.passing and len(edus) < edu_limit:
            edus.append(queue.passing.popleft())
        return Owed(pdus, edus, end)

    async def _from_tables(
        self, destination: ServerName, after: int, end: int, limit: int, *, latest: bool = False
    ) -> Owed:
        found = await self._store.owed.owed(
            destination, self.server_name, after=after, up_to=end, limit=limit, latest=latest
        )
        # Each list may end early: the cursor moves only as far as the shortest.
        up_to = end
        for places in (
            [row.position for row in found.events],
            [position for position, _ in found.edus],
            found.device_changes,
            [position for position, _ in found.joins],
        ):
            if len(places) >= limit:
                up_to = min(up_to, places[-1])
        pdus = [row.json for row in found.events if row.position <= up_to]
        edus: list[JsonObject] = []
        for position, edu in found.edus:
            if position <= up_to:
                edus.append(orjson.loads(edu))
                self._given_out[destination] = position
        edus += await self._device_list_edus.changes(
            [one for one in found.device_changes if one <= up_to]
        )
        edus += await self._device_list_edus.whole_lists(
            [UserId(user) for position, user in found.joins if position <= up_to]
        )
        is_all = up_to == end and end == self._settled_for(destination)
        return Owed(pdus, edus, up_to, more=not is_all)

    async def latest_of_each_room(self, destination: ServerName, after: int, *, limit: int) -> Owed:
        """`OutboundFeed.latest_of_each_room`."""
        end = self._settled_for(destination)
        return await self._from_tables(destination, after, end, limit, latest=True)


def _is_end(change: StateChange) -> bool:
    """Returns whether a member, or an invited or knocking user, is now out of the room. Their
    server is told, though it may not be in the room any more, or never was: it was asked to sign an
    invite, or a knock came from there."""
    kind, key = change.key
    is_member = kind == event_types.MEMBER and is_user_id(key)
    return is_member and change.former in ("join", "invite", "knock") and change.membership in _OUT


class FeedDestinations:
    """Destinations, including those that have never received anything: the servers in our rooms."""

    def __init__(
        self, owed: OwedTables, store: DestinationStore, committer: Committer, feed: LogFeed
    ) -> None:
        self._owed = owed
        self._store = store
        self._committer = committer
        self._feed = feed

    async def load_destination(self, server: ServerName) -> Destination:
        """`DestinationStore.load_destination`."""
        return await self._store.load_destination(server)

    async def save_destination(self, destination: Destination) -> None:
        """`DestinationStore.save_destination`."""
        await self._store.save_destination(destination)
        if self._feed.took_edus(destination.server, destination.cursor):
            await self._owed.forget_edus(destination.server, destination.cursor)

    async def lagging(self) -> list[Destination]:
        """`DestinationStore.lagging`: those whose cursor is before entries that may concern
        them.
        """
        stored = {one.server: one for one in await self._store.lagging()}
        found, waiting = await self._owed.lagging(self._feed.server_name)
        newest = {ServerName(server): position for server, position in found.items()}
        for server in waiting:
            newest[ServerName(server)] = self._committer.position
        lagging = [
            stored.get(server) or Destination(server, -1)
            for server, position in newest.items()
            if server not in stored or stored[server].cursor < position
        ]
        seen = {one.server for one in lagging}
        lagging += [one for one in stored.values() if one.retry_at_ms and one.server not in seen]
        return lagging
