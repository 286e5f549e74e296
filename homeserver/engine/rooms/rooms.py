"""All rooms of this server: hot ones in memory, the others loaded when they are asked for.

Rules:
1. A cold room is loaded once for all who wait. A room with staged work, or that somebody holds
   (`holders`), is never evicted.
2. Whether a state key has an event is answered by memory; the event itself may need a load.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.log.entries import kept_client
from homeserver.engine.rooms.erasures import Erasures
from homeserver.engine.rooms.event_cache import EventMemory
from homeserver.engine.rooms.room import (
    Head,
    NotLoaded,
    Room,
    RoomGone,
    RoomView,
    StateSnapshot,
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

__all__ = ["Head", "NotLoaded", "Room", "RoomView", "Rooms", "StateRef", "StateSnapshot", "held"]

T = TypeVar("T")

SnapshotRead = Callable[[int, str], Awaitable[int | None]]


class HotRooms:
    """Rooms in memory, the longest unused first, within a budget of bytes.

    A room's size is looked at when it comes, is used or has grown. The sum of the sizes is kept, so
    that a step costs the same whatever the number of rooms.
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
        """The room, which counts as used now."""
        room = self._rooms.get(room_id)
        if room is not None:
            self._rooms.move_to_end(room_id)
            self._measure(room)
        return room

    def add(self, room: Room) -> None:
        """Takes in a room that isn't here."""
        self._rooms[room.room_id] = room
        self._measure(room)

    def drop(self, room_id: RoomId) -> None:
        """Lets a room go, if it is here."""
        if self._rooms.pop(room_id, None) is not None:
            self.bytes -= self._sizes.pop(room_id)

    def _measure(self, room: Room) -> None:
        size = room.bytes
        self.bytes += size - self._sizes.get(room.room_id, 0)
        self._sizes[room.room_id] = size

    def evict(self, keep: Set[RoomId] = frozenset()) -> None:
        """Lets the longest unused rooms go until the rest fits the budget. Rooms in use stay; once
        so many were met, the next call goes on behind them."""
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


class Rooms:
    """The registry of rooms, and what is asked of rooms, states and events."""

    def __init__(self, store: EngineStore, server_name: ServerName) -> None:
        self._store = store
        self.memory = EventMemory(store)
        self.loader = RoomLoader(store, server_name, self.memory)
        self.erasures = Erasures(store)
        self._hot = HotRooms()
        self._loading: dict[RoomId, asyncio.Future[None]] = {}

    # Rooms

    def hot(self, room_id: RoomId) -> Room | None:
        """The room if it is in memory; it counts as used now."""
        return self._hot.use(room_id)

    async def get(self, room_id: RoomId) -> Room | None:
        """The room, loaded if need be; None for one that we know nothing of but its ID."""
        return self.hot(room_id) or (await self.get_many([room_id])).get(room_id)

    async def get_many(self, room_ids: Collection[RoomId]) -> dict[RoomId, Room]:
        """Rooms by ID; cold ones are loaded together, and once for all who wait."""
        cold = [one for one in room_ids if one not in self._hot and one not in self._loading]
        waiting = {one: self._loading[one] for one in room_ids if one in self._loading}
        if cold:
            await self._load(cold)
        for future in waiting.values():
            await asyncio.shield(future)
        return {one: room for one in room_ids if (room := self.hot(one)) is not None}

    async def _load(self, room_ids: Sequence[RoomId]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loading.update(dict.fromkeys(room_ids, future))
        try:
            for room in (await self.loader.load(room_ids)).values():
                if room.room_id not in self._hot:
                    self._hot.add(room)
        except BaseException as error:
            # Who waits gets the error too; if nobody waits, it was raised here all the same.
            future.set_exception(
                error if isinstance(error, Exception) else asyncio.CancelledError()
            )
            future.exception()
            raise
        else:
            future.set_result(None)
        finally:
            for room_id in room_ids:
                del self._loading[room_id]
        self._hot.evict(keep=set(room_ids))

    @asynccontextmanager
    async def locked(self, room_id: RoomId) -> AsyncIterator[Room]:
        """The room, held and locked, so that events can be staged; what is queued under the lock
        keeps it in memory from then on. Raises RoomGone for one that is unknown here, or is by the
        time the lock is had; MatrixError (503) where the lock isn't had in time."""
        room = await self.get(room_id)
        if room is None:
            raise RoomGone
        with held(room):
            async with room.lock:
                if self.hot(room_id) is not room:
                    raise RoomGone
                yield room

    def add(self, room: Room) -> None:
        """Takes in a room that was just made; it has staged work."""
        assert room.room_id not in self._hot, "a room is made once"
        self._hot.add(room)
        self._hot.evict()

    def drop(self, room_id: RoomId) -> None:
        """Forgets a room that came to nothing (its creation failed)."""
        self._hot.drop(room_id)

    def grew(self, room: Room) -> None:
        """Something was committed to a room: it may be larger by now."""
        if self._hot.use(room.room_id) is room:
            self._hot.evict(keep={room.room_id})

    # State

    async def chain(self, room: Room, snapshot: int) -> Chain:
        """A snapshot of a room with its bases."""
        for view in (room.view, room.staged):
            if view.chain[-1].nid == snapshot:
                return view.chain
        return await self.loader.chain(room.nid, snapshot)

    async def chains(self, room: Room, snapshots: Collection[int]) -> dict[int, Chain]:
        """Snapshots of a room with their bases, by number."""
        at_hand = {view.chain[-1].nid: view.chain for view in (room.staged, room.view)}
        found = {nid: at_hand[nid] for nid in snapshots if nid in at_hand}
        missing = [nid for nid in snapshots if nid not in found]
        return {**found, **await self.loader.chains(room.nid, missing)} if missing else found

    def state_of(self, room: Room, chain: Chain) -> StateMap:
        """The state that a chain leads to; made of the current one by what differs, where both have
        a link in common."""
        for view in (room.view, room.staged):
            if view.chain is chain:
                return view.state
        current = room.staged
        if chain[0].nid == current.chain[0].nid:
            return changed(current.state, change_between(current.chain, chain))
        return state_of(chain)

    async def state_before(self, room: Room, event_id: EventId) -> StateMap | None:
        """The state before a stored event; None for an outlier or an unknown one."""
        return await _state_at(self, room, event_id, self._store.events.snapshot_before)

    async def state_after(self, room: Room, event_id: EventId) -> StateMap | None:
        """The state after a stored event; None for an outlier or an unknown one."""
        return await _state_at(self, room, event_id, self._store.events.snapshot_after)

    async def end_of_stay(self, room: Room, user_id: UserId) -> tuple[int, EventId | None] | None:
        """The last change of the room's state by which a user of ours ceased to be joined: its
        position, and the event, if one is left in the state."""
        row = await self._store.rooms.end_of_stay(room.nid, user_id)
        return None if row is None else (row["position"], row["event_id"])

    # Events

    async def events(self, event_ids: Collection[EventId]) -> dict[EventId, StoredEvent]:
        """Those of the events that are stored, outliers and rejected ones included."""
        return await self.memory.events(event_ids)

    async def client_events(self, event_ids: Collection[EventId]) -> dict[EventId, bytes]:
        """Events for clients without `unsigned`, redactions applied: JSON that ends in `}`."""
        return await self.memory.client_events(event_ids)

    async def loading(self, step: Callable[[], T]) -> T:
        """Makes a step, loading the state events that it misses."""
        for _ in range(limits.STAGING_LOADS):
            try:
                return step()
            except NotLoaded as missing:
                await self.events([missing.event_id])
        raise AssertionError("an auth check needs a bounded number of events")

    async def state_events(
        self, state: Mapping[StateKey, StateRef], keys: Collection[StateKey]
    ) -> dict[StateKey, Event]:
        """The events that a state has for some keys."""
        wanted = {key: state[key].event_id for key in keys if key in state}
        known = await self.events(list(wanted.values()))
        return {key: known[event_id].event for key, event_id in wanted.items()}

    def apply_redaction(self, room: Room, target: Event, redaction: EventId) -> None:
        """Renews what is in memory of an event that was redacted, and of its redaction; `target`
        is its redacted form."""
        self.memory.forget_event(target.event_id)
        room.forget_auth()
        room.awaited_targets.pop(target.event_id, None)
        for placed in list(room.ring):
            entry = ring_entry(placed)
            if entry.event.event_id == target.event_id:
                room.replace_in_ring(
                    msgspec.structs.replace(
                        entry, event=target, kept_client=kept_client(target), redacted_by=redaction
                    )
                )
            elif entry.event.event_id == redaction:
                room.replace_in_ring(msgspec.structs.replace(entry, redacts=target.event_id))


async def _state_at(
    rooms: Rooms, room: Room, event_id: EventId, read: SnapshotRead
) -> StateMap | None:
    snapshot = await read(room.nid, event_id)
    return None if snapshot is None else rooms.state_of(room, await rooms.chain(room, snapshot))
