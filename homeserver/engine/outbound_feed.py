"""What other servers are owed, worked out from the log (`federation.ports.OutboundFeed`).

Rules:
1. A destination is owed our events in rooms where it was a member before or after them, messages
   to its users' devices, and changes of the device lists of users of ours who share a room with
   it (design, "What keeps it right", 13).
2. Near the log's end memory answers: what each destination is owed is noted at the commit. Before
   that, tables answer.
3. A device-list change concerns servers that only a look at the user's rooms tells. Until then no
   cursor passes its position.
4. What passes (typing, receipts) is in memory alone; where too much waits, the oldest goes.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec
import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName, UserId, is_user_id, server_of
from federation.ports import Destination, DestinationStore, Owed
from homeserver import limits
from homeserver.engine.committer import Committer
from homeserver.engine.entries import DeviceListEntry, EventEntry, ReceiptEntry, RemoteEduEntry
from homeserver.engine.log import Placed
from homeserver.engine.memberships import Memberships
from homeserver.engine.rooms import Room, Rooms
from homeserver.engine.store import OwedStore, Store

DeviceListEdus = Callable[[Sequence[int]], Awaitable[list[JsonObject]]]
"""The EDUs of changes of device lists, by their positions."""


class _Item(msgspec.Struct, frozen=True, order=True):
    """One thing owed. Without payload: the device-list change at its position."""

    position: int
    pdu: bytes = b""
    edu: bytes = b""


class _Queue:
    """What one destination is owed after `start`, all of it."""

    def __init__(self, server: ServerName, start: int) -> None:
        self.server = server
        self.start = start
        self.items: deque[_Item] = deque()
        self.passing: deque[JsonObject] = deque(maxlen=limits.PASSING_EDUS)

    def add(self, item: _Item) -> None:
        """Keeps order; what does not fit is read from the tables later."""
        if self.items and item < self.items[-1]:
            items = list(self.items)
            insort(items, item)
            self.items = deque(items)
        else:
            self.items.append(item)
        if len(self.items) > limits.OWED_IN_MEMORY:
            self.items.clear()
            self.start = item.position

    def taken(self, upto: int) -> None:
        """Forgets what the destination has."""
        while self.items and self.items[0].position <= upto:
            self.items.popleft()


class LogFeed:
    """The log as other servers' queues."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        rooms: Rooms,
        memberships: Memberships,
        *,
        server_name: ServerName,
        device_list_edus: DeviceListEdus,
    ) -> None:
        self._store = store
        self._committer = committer
        self._rooms = rooms
        self._memberships = memberships
        self.server_name = server_name
        self._device_list_edus = device_list_edus
        self._start = committer.position
        self._queues: dict[ServerName, _Queue] = {}
        self._unresolved: deque[tuple[int, UserId]] = deque()
        self._arrived = asyncio.Event()
        self._with_edus: set[ServerName] = set()
        self._on_owed: list[Callable[[Collection[ServerName]], None]] = []
        committer.subscribe(self._published)

    def had_edus(self, destination: ServerName) -> bool:
        """Were stored EDUs given out to it since this was asked last? They can be deleted once
        the cursor is past them."""
        if destination in self._with_edus:
            self._with_edus.discard(destination)
            return True
        return False

    def subscribe(self, on_owed: Callable[[Collection[ServerName]], None]) -> None:
        """`OutboundFeed.subscribe`."""
        self._on_owed.append(on_owed)

    # Following the log

    def _published(self, batch: Sequence[Placed]) -> None:
        concerned: set[ServerName] = set()
        for placed in batch:
            entry = placed.entry
            if isinstance(entry, EventEntry):
                if entry.to_federate:
                    concerned |= self._note_event(placed.position, entry)
            elif isinstance(entry, RemoteEduEntry):
                self._queue(entry.destination).add(_Item(placed.position, edu=entry.edu))
                concerned.add(entry.destination)
            elif isinstance(entry, ReceiptEntry):
                self._pass_receipt(entry)
            elif isinstance(entry, DeviceListEntry) and self._is_ours(entry.user_id):
                self._unresolved.append((placed.position, entry.user_id))
                self._arrived.set()
        self._tell(concerned)

    def _is_ours(self, user_id: UserId) -> bool:
        return server_of(user_id) == self.server_name

    def pass_on(self, servers: Collection[ServerName], edu: JsonObject) -> None:
        """Sends an EDU that isn't worth keeping."""
        others = [server for server in servers if server != self.server_name]
        for server in others:
            self._queue(server).passing.append(edu)
        self._tell(others)

    def _pass_receipt(self, entry: ReceiptEntry) -> None:
        room = self._rooms.hot(entry.room_id)
        if room is None or entry.kind != "m.read" or not self._is_ours(entry.user_id):
            return
        data: JsonObject = {"ts": entry.ts}
        if entry.thread:
            data["thread_id"] = entry.thread
        receipt = {entry.user_id: {"data": data, "event_ids": [entry.event_id]}}
        content = {entry.room_id: {"m.read": receipt}}
        self.pass_on(room.view.servers, {"edu_type": "m.receipt", "content": content})

    def _note_event(self, position: int, entry: EventEntry) -> set[ServerName]:
        room = self._rooms.hot(entry.room_id)
        assert room is not None, "a room with a fresh commit is in memory"
        servers = set(room.view.servers)
        servers.update(
            server_of(change.key[1])
            for change in entry.changes
            if change.key[0] == "m.room.member" and is_user_id(change.key[1])
        )
        servers -= {self.server_name, server_of(entry.event.sender)}
        for server in servers:
            self._queue(server).add(_Item(position, pdu=entry.event.raw))
        return servers | self._catch_up_newcomer(position, entry, room)

    def _catch_up_newcomer(self, position: int, entry: EventEntry, room: Room) -> set[ServerName]:
        """A server whose join came beside other events got the state before its join: it is owed
        the other heads, since nobody sends it what came before it was a member."""
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
            queue = self._queues[server] = _Queue(server, self._start)
        return queue

    def _tell(self, servers: Collection[ServerName]) -> None:
        if servers:
            for on_owed in self._on_owed:
                on_owed(servers)

    async def run(self) -> None:
        """Finds out whom device-list changes concern; for the supervisor."""
        while True:  # what a failed run left comes first
            while self._unresolved:
                position, user_id = self._unresolved[0]
                servers = await self._servers_of(user_id)
                for server in servers:
                    self._queue(server).add(_Item(position))
                self._unresolved.popleft()
                self._tell(servers)
            self._arrived.clear()
            await self._arrived.wait()

    async def _servers_of(self, user_id: UserId) -> set[ServerName]:
        servers: set[ServerName] = set()
        for room_id in await self._memberships.rooms_of(user_id):
            room = await self._rooms.get(RoomId(room_id))
            if room is not None:
                servers.update(room.view.servers)
        return servers - {self.server_name}

    # Answering

    async def owed(
        self, destination: ServerName, after: int, *, pdu_limit: int, edu_limit: int
    ) -> Owed:
        """`OutboundFeed.owed`."""
        end = self._committer.position
        if self._unresolved:
            end = min(end, self._unresolved[0][0] - 1)
        queue = self._queue(destination)
        queue.taken(after)
        if after < queue.start:
            return await self._from_tables(destination, after, min(end, queue.start), pdu_limit)
        return await self._from_memory(queue, end, pdu_limit, edu_limit)

    async def _from_memory(self, queue: _Queue, end: int, pdu_limit: int, edu_limit: int) -> Owed:
        pdus: list[bytes] = []
        edus: list[JsonObject] = []
        for item in list(queue.items):
            if item.position > end:
                break
            if len(pdus) >= pdu_limit or len(edus) >= edu_limit - limits.EDUS_PER_DEVICE_CHANGE:
                return Owed(pdus, edus, item.position - 1, more=True)
            if item.pdu:
                pdus.append(item.pdu)
            elif item.edu:
                edus.append(orjson.loads(item.edu))
                self._with_edus.add(queue.server)
            else:
                edus += await self._device_list_edus([item.position])
        while queue.passing and len(edus) < edu_limit:
            edus.append(queue.passing.popleft())
        return Owed(pdus, edus, end)

    async def _from_tables(
        self, destination: ServerName, after: int, upto: int, limit: int
    ) -> Owed:
        found_rows = await self._store.owed.owed(destination, after=after, upto=upto, limit=limit)
        rows, messages = found_rows.events, found_rows.edus
        changes = list(found_rows.device_changes)
        # Each list may end early: the cursor goes no further than the shortest.
        for found in (
            [row["position"] for row in rows],
            [position for position, _ in messages],
            changes,
        ):
            if len(found) >= limit:
                upto = min(upto, found[-1])
        edus = [orjson.loads(edu) for position, edu in messages if position <= upto]
        if messages:
            self._with_edus.add(destination)
        edus += await self._device_list_edus([one for one in changes if one <= upto])
        pdus = [row["json"] for row in rows if row["position"] <= upto]
        return Owed(pdus, edus, upto, more=upto < self._committer.position)

    async def latest_of_each_room(self, destination: ServerName, after: int) -> Owed:
        """`OutboundFeed.latest_of_each_room`."""
        end = self._committer.position
        rows = await self._store.owed.latest_owed(destination, after=after)
        return Owed([row["json"] for row in rows if row["position"] <= end], [], end)


class FeedDestinations:
    """Destinations, those included that never got anything: the servers in our rooms."""

    def __init__(
        self, owed: OwedStore, store: DestinationStore, committer: Committer, feed: LogFeed
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
        if self._feed.had_edus(destination.server):
            await self._owed.forget_edus(destination.server, destination.cursor)

    async def lagging(self) -> list[Destination]:
        """`DestinationStore.lagging`: those whose cursor is before what may concern them."""
        stored = {one.server: one for one in await self._store.lagging()}
        rows, waiting = await self._owed.lagging(self._feed.server_name)
        newest = {ServerName(row["server"]): row["position"] for row in rows}
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
