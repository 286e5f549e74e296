"""All rooms of this server: hot ones in memory, the others loaded on demand.

Rules:
1. A cold room is loaded once for all waiters. A room with staged work, or with `holders`, is never
   evicted.
2. Memory can tell whether a state key has an event; the event itself may have to be loaded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.entries import redacted_entry
from homeserver.engine.rooms.erasures import Erasures
from homeserver.engine.rooms.event_cache import EventMemory
from homeserver.engine.rooms.room import (
    Head,
    NotLoaded,
    Room,
    RoomGone,
    RoomView,
    Superseded,
    ring_entry,
)
from homeserver.engine.rooms.room_loader import RoomLoader
from homeserver.engine.rooms.snapshots import (
    Chain,
    StateMap,
    StateRef,
    change_between,
    changed,
    state_of,
)
from homeserver.engine.store import EngineStore
from homeserver.errors import unavailable

__all__ = [
    "Head",
    "NotLoaded",
    "Room",
    "RoomView",
    "Rooms",
    "StateRef",
    "held",
    "retry_superseded",
]

T = TypeVar("T")

SnapshotRead = Callable[[int, str], Awaitable[int | None]]


class HotRooms:
    """Rooms in memory, the least recently used first, within a budget of bytes.

    A room's size is read when it is added or may have grown, not with each use. The sum of the
    sizes is kept, so that the cost of a step doesn't depend on the number of rooms.
    """

    def __init__(self) -> None:
        self._rooms: OrderedDict[RoomId, Room] = OrderedDict()
        self._sizes: dict[RoomId, int] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._rooms)

    def __contains__(self, room_id: RoomId) -> bool:
        return room_id in self._rooms

    def use(self, room_id: RoomId) -> Room | None:
        """Returns the room, which counts as used now."""
        room = self._rooms.get(room_id)
        if room is not None:
            self._rooms.move_to_end(room_id)
        return room

    def add(self, room: Room) -> None:
        """Adds a room that isn't here."""
        self._rooms[room.room_id] = room
        self.measure(room)

    def drop(self, room_id: RoomId) -> None:
        """Removes a room, if it is here."""
        if self._rooms.pop(room_id, None) is not None:
            self.bytes -= self._sizes.pop(room_id)

    def measure(self, room: Room) -> None:
        """Reads the size of a room that is here."""
        size = room.bytes
        self.bytes += size - self._sizes.get(room.room_id, 0)
        self._sizes[room.room_id] = size

    def evict(self, keep: Set[RoomId] = frozenset()) -> None:
        """Evicts the least recently used rooms until the rest fits the budget. Rooms in use stay;
        after a bounded number of these, the next call continues behind them."""
        met = 0
        while self.bytes > limits.HOT_ROOMS_BYTES and len(self._rooms) > limits.HOT_ROOMS_MIN:
            room_id, room = next(iter(self._rooms.items()))
            if room_id in keep or room.is_in_use:
                self._rooms.move_to_end(room_id)
                met += 1
                if met > limits.HOT_ROOMS_PASSED_OVER + len(keep):
                    return
            else:
                self.drop(room_id)


@contextmanager
def held(room: Room) -> Iterator[None]:
    """Keeps a room in memory for as long as the block lasts."""
    room.holders += 1
    try:
        yield
    finally:
        room.holders -= 1


class LockedRoom:
    """A room, held and locked for the length of an `async with` block.

    Events queued in the block keep the room in memory from then on; what was staged and not queued
    is taken back. Entering raises RoomGone for a room that is unknown here, or no longer known once
    the lock is held, and MatrixError (503) if the lock can't be taken in time.
    """

    __slots__ = ("_room", "_room_id", "_rooms")

    def __init__(self, rooms: Rooms, room_id: RoomId) -> None:
        self._rooms = rooms
        self._room_id = room_id
        self._room: Room | None = None

    async def __aenter__(self) -> Room:
        room = await self._rooms.get(self._room_id)
        if room is None:
            raise RoomGone
        room.holders += 1
        try:
            # Only while this waited can another task have dropped the room.
            if await room.lock.acquire() and self._rooms.hot(self._room_id) is not room:
                room.lock.release(None)
                raise RoomGone
        except BaseException:
            room.holders -= 1
            raise
        self._room = room
        return room

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: object
    ) -> None:
        room = self._room
        assert room is not None, "the block was entered"
        try:
            room.lock.release(error)
        finally:
            room.holders -= 1


async def retry_superseded(step: Callable[[], Awaitable[T]]) -> T:
    """Runs a step that stages events; again if what they were staged on wasn't committed. Raises
    the step's other errors, and MatrixError (503) if it is superseded each time."""
    for _ in range(limits.STAGING_TRIES):
        try:
            return await step()
        except Superseded:
            continue
    raise unavailable("the room could not be written")


class Rooms:
    """The registry of rooms, and reads of rooms, states and events."""

    def __init__(self, store: EngineStore, server_name: ServerName) -> None:
        self._store = store
        self.memory = EventMemory(store)
        self.loader = RoomLoader(store, server_name, self.memory)
        self.erasures = Erasures(store)
        self._hot = HotRooms()
        self._loading: dict[RoomId, asyncio.Future[bool]] = {}
        # Called with each event whose redaction no entry of the log tells.
        self.redaction_hearers: list[Callable[[RoomId, EventId], None]] = []

    # Rooms

    def hot(self, room_id: RoomId) -> Room | None:
        """Returns the room if it is in memory; it counts as used now."""
        return self._hot.use(room_id)

    async def get(self, room_id: RoomId) -> Room | None:
        """Returns the room, loaded if needed; None for one of which only the ID is known."""
        return self.hot(room_id) or (await self.get_many([room_id])).get(room_id)

    async def get_many(self, room_ids: Collection[RoomId]) -> dict[RoomId, Room]:
        """Returns rooms by ID; cold ones are loaded together, and once for all waiters."""
        wanted = list(room_ids)
        while wanted:
            cold = [one for one in wanted if one not in self._hot and one not in self._loading]
            waiting = {one: self._loading[one] for one in wanted if one in self._loading}
            if cold:
                await self._load(cold)
            # A load whose caller was cancelled (a client hung up) is repeated by those who wait.
            wanted = [one for one, done in waiting.items() if not await asyncio.shield(done)]
        return {one: room for one in room_ids if (room := self.hot(one)) is not None}

    async def _load(self, room_ids: Sequence[RoomId]) -> None:
        """Loads rooms. The future of others who wait for them says whether the load took place."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._loading.update(dict.fromkeys(room_ids, future))
        try:
            for room in (await self.loader.load(room_ids)).values():
                if room.room_id not in self._hot:
                    self._hot.add(room)
        except Exception as error:
            # Waiters get the error too; without any, it has been raised here.
            future.set_exception(error)
            future.exception()
            raise
        except BaseException:
            future.set_result(False)
            raise
        else:
            future.set_result(True)
        finally:
            for room_id in room_ids:
                del self._loading[room_id]
        self._hot.evict(keep=set(room_ids))

    def locked(self, room_id: RoomId) -> LockedRoom:
        """Returns the context in which events of a room can be staged."""
        return LockedRoom(self, room_id)

    def add(self, room: Room) -> None:
        """Adds a room that was just created; it has staged work."""
        assert room.room_id not in self._hot, "a room is made once"
        self._hot.add(room)
        self._hot.evict(keep={room.room_id})

    def drop(self, room_id: RoomId) -> None:
        """Drops a room whose creation failed."""
        self._hot.drop(room_id)

    def grew(self, room: Room) -> None:
        """Notes that something was committed to a room or resolved in it: it may be larger now."""
        if self._hot.use(room.room_id) is room:
            self._hot.measure(room)
            self._hot.evict(keep={room.room_id})

    # State

    async def chain(self, room: Room, snapshot: int) -> Chain:
        """Returns a snapshot of a room with its bases."""
        for view in (room.view, room.staged):
            if view.chain[-1].row_id == snapshot:
                return view.chain
        return await self.loader.chain(room.row_id, snapshot)

    async def chains(self, room: Room, snapshots: Collection[int]) -> dict[int, Chain]:
        """Returns snapshots of a room with their bases, by number."""
        in_memory = {view.chain[-1].row_id: view.chain for view in (room.staged, room.view)}
        found = {row_id: in_memory[row_id] for row_id in snapshots if row_id in in_memory}
        missing = [row_id for row_id in snapshots if row_id not in found]
        return {**found, **await self.loader.chains(room.row_id, missing)} if missing else found

    def state_of(self, room: Room, chain: Chain) -> StateMap:
        """Returns the state that a chain leads to; built from the current one by the differences,
        if both share a link."""
        for view in (room.view, room.staged):
            if view.chain is chain:
                return view.state
        current = room.staged
        if chain[0].row_id == current.chain[0].row_id:
            return changed(current.state, change_between(current.chain, chain))
        return state_of(chain)

    async def state_before(self, room: Room, event_id: EventId) -> StateMap | None:
        """Returns the state before a stored event; None for an outlier or an unknown one."""
        return await _state_at(self, room, event_id, self._store.events.snapshot_before)

    async def state_after(self, room: Room, event_id: EventId) -> StateMap | None:
        """Returns the state after a stored event; None for an outlier or an unknown one."""
        return await _state_at(self, room, event_id, self._store.events.snapshot_after)

    async def end_of_stay(self, room: Room, user_id: UserId) -> tuple[int, EventId | None] | None:
        """Returns the last change of the room's state by which a local user ceased to be joined:
        its position, and the event, if one is left in the state."""
        return await self._store.state_changes.end_of_stay(room.row_id, user_id)

    # Events

    async def events(self, event_ids: Collection[EventId]) -> dict[EventId, StoredEvent]:
        """Returns those of the events that are stored, outliers and rejected ones included."""
        return await self.memory.events(event_ids)

    async def client_events(self, event_ids: Collection[EventId]) -> dict[EventId, bytes]:
        """Returns events for clients without `unsigned`, redactions applied: JSON that ends in
        `}`.
        """
        return await self.memory.client_events(event_ids)

    async def loading(self, step: Callable[[], T]) -> T:
        """Runs a step, loading the missing state events."""
        for _ in range(limits.STAGING_LOADS):
            try:
                return step()
            except NotLoaded as missing:
                await self.events([missing.event_id])
        raise AssertionError("an auth check needs a bounded number of events")

    async def state_events(
        self, state: Mapping[StateKey, StateRef], keys: Collection[StateKey]
    ) -> dict[StateKey, Event]:
        """Returns the events that a state has for some keys."""
        wanted = {key: state[key].event_id for key in keys if key in state}
        known = await self.events(list(wanted.values()))
        return {key: known[event_id].event for key, event_id in wanted.items()}

    def apply_redaction(
        self, room: Room, target: Event, redaction: EventId, *, is_told: bool = False
    ) -> None:
        """Updates a redacted event in memory, and its redaction; `target` is its redacted form.
        `is_told`: an entry of the log tells it."""
        if not is_told:
            for hearer in self.redaction_hearers:
                hearer(room.room_id, target.event_id)
        self.memory.forget_event(target.event_id)
        room.forget_auth()
        room.awaited_targets.pop(target.event_id, None)
        for placed in list(room.ring):
            entry = ring_entry(placed)
            if entry.event.event_id == target.event_id:
                room.replace_in_ring(redacted_entry(entry, target, redaction))
            elif entry.event.event_id == redaction:
                room.replace_in_ring(msgspec.structs.replace(entry, redacts=target.event_id))


async def _state_at(
    rooms: Rooms, room: Room, event_id: EventId, read: SnapshotRead
) -> StateMap | None:
    snapshot = await read(room.row_id, event_id)
    return None if snapshot is None else rooms.state_of(room, await rooms.chain(room, snapshot))
