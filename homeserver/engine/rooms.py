"""Hot rooms: what is committed, for all readers; what is staged, for the writer alone.

Rules:
1. A room has two views. `view` is committed; `staged` is the writer's, and nothing that depends
   on it leaves the process before its commit. After a failed batch `staged` is `view` again and
   the generation is one higher.
2. Views are values: a new one for each event, sharing what did not change.
3. A cold room is loaded once for all who wait. A room with staged work, or that somebody holds
   (`pinned`), is never evicted.
4. Whether a state key has an event is answered by memory; the event itself may need a load.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import immutables
import msgspec
import orjson

from federation.events.event import Event, client_event, load_event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId, server_of
from federation.events.room_versions import RoomVersion, room_version
from federation.graph.auth_rules import AuthState
from federation.ports import KnownEvent
from homeserver import limits
from homeserver.engine.entries import EventEntry, StateChange, TransactionKey
from homeserver.engine.event_cache import ByteBoundedCache
from homeserver.engine.log import Placed
from homeserver.engine.snapshots import Chain, Link, StateMap, StateRef, state_of
from homeserver.storage import events as event_rows
from homeserver.storage import redactions as redaction_rows
from homeserver.storage import rooms as room_rows
from homeserver.storage import snapshots as snapshot_rows
from homeserver.storage.database import Connection, Database, Row
from homeserver.storage.text import unescape

SnapshotRead = Callable[[Connection, int, str], Awaitable[int | None]]
_STATE_ENTRY_BYTES = 350
_ROOM_BYTES = 4_000


class NotLoaded(LookupError):
    """A state event is needed that is not in memory: load it, then do it again."""

    def __init__(self, event_id: EventId) -> None:
        super().__init__(event_id)
        self.event_id = event_id


class Head(msgspec.Struct, frozen=True):
    """A forward extremity with the state after it."""

    event_id: EventId
    nid: int
    depth: int
    state: StateMap
    chain: Chain


class Before(msgspec.Struct, frozen=True):
    """A state (before an event, or after one) with the snapshot that it is stored as."""

    state: StateMap
    chain: Chain


class RoomView(msgspec.Struct, frozen=True):
    """A room as of one moment."""

    state: StateMap
    chain: Chain
    heads: tuple[Head, ...]
    n: int
    joined: int
    invited: int
    servers: immutables.Map[ServerName, int]
    position: int = 0


class Room:
    """A room in memory."""

    def __init__(self, room_id: RoomId, nid: int, version: RoomVersion, view: RoomView) -> None:
        self.room_id = room_id
        self.nid = nid
        self.version = version
        self.view = view
        self.staged = view
        self.generation = 0
        self.pins = 0
        self.unsettled = 0
        self.turn = asyncio.Lock()
        self.joined_local: set[UserId] = set()
        self.ring: deque[Placed] = deque()
        self.ring_start = view.position
        self.changes_start = view.position  # older ring entries don't tell changes of state
        self.awaited_targets: dict[EventId, EventId] = {}  # of redactions: target, redaction
        self.staged_events: dict[EventId, KnownEvent] = {}
        self.after: OrderedDict[EventId, Before] = OrderedDict()
        self._ring_bytes = 0
        self._auth: AuthState | None = None
        self._auth_of: StateMap | None = None

    @property
    def joined_servers(self) -> Mapping[ServerName, int]:
        """How many joined users each server has."""
        return self.view.servers

    @property
    def bytes(self) -> int:
        """A rough size, for the memory budget."""
        return _ROOM_BYTES + _STATE_ENTRY_BYTES * len(self.view.state) + self._ring_bytes

    def remember(self, placed: Placed) -> None:
        """Adds a committed timeline event to the ring."""
        self.ring.append(placed)
        self._ring_bytes += _entry(placed).size
        if len(self.ring) > limits.ROOM_RING_EVENTS:
            oldest = self.ring.popleft()
            self.ring_start = oldest.position
            self._ring_bytes -= _entry(oldest).size

    def replace_in_ring(self, entry: EventEntry) -> None:
        """Renews a timeline event that a redaction changed."""
        for i, placed in enumerate(self.ring):
            if _entry(placed).event.event_id == entry.event.event_id:
                self.ring[i] = Placed(placed.position, entry)
                return

    def publish(self, view: RoomView, position: int) -> None:
        """Makes a staged view the committed one; for the committer."""
        is_newest = self.staged is view
        self.view = msgspec.structs.replace(view, position=position)
        if is_newest:
            self.staged = self.view

    def update_locals(self, changes: Sequence[StateChange], own_server: str) -> None:
        """Keeps `joined_local` in step with committed changes."""
        for change in changes:
            kind, user = change.key
            if kind == "m.room.member" and server_of(user) == own_server:
                if change.membership == "join":
                    self.joined_local.add(UserId(user))
                else:
                    self.joined_local.discard(UserId(user))

    def remember_after(self, event_id: EventId, after: Before) -> None:
        """Keeps the state after a staged event, for events that name it as their parent."""
        self.after[event_id] = after
        if len(self.after) > limits.ROOM_STATES_AFTER:
            self.after.popitem(last=False)

    def discard_staged(self) -> None:
        """After a failure: what was staged is gone, and whoever built on it is told so."""
        self.generation += 1
        self.restore(self.view)
        self.staged_events.clear()

    def restore(self, view: RoomView) -> None:
        """Takes back staging that was not queued."""
        self.staged = view
        self.after.clear()
        self.forget_auth()

    def forget_auth(self) -> None:
        """An event that the auth rules read has changed."""
        self._auth = self._auth_of = None

    def auth_state(self, state: StateMap, load: Callable[[EventId], Event]) -> AuthState:
        """A state as the auth rules see it; kept while the state stays the same."""
        if self._auth is None or self._auth_of is not state:

            def lookup(key: StateKey) -> Event | None:
                ref = state.get(key)
                if ref is None:
                    return None
                staged = self.staged_events.get(ref.event_id)
                return staged.event if staged else load(ref.event_id)

            self._auth, self._auth_of = AuthState(self.version, lookup), state
        return self._auth


def _entry(placed: Placed) -> EventEntry:
    assert isinstance(placed.entry, EventEntry), "a ring holds timeline events"
    return placed.entry


def membership_counts(
    state: Mapping[StateKey, StateRef],
) -> tuple[int, int, immutables.Map[ServerName, int]]:
    """Joined and invited users, and the joined ones of each server."""
    joined = invited = 0
    servers: dict[ServerName, int] = {}
    for (kind, user), ref in state.items():
        if kind != "m.room.member":
            continue
        if ref.membership == "join":
            joined += 1
            server = server_of(user)
            servers[server] = servers.get(server, 0) + 1
        elif ref.membership == "invite":
            invited += 1
    return joined, invited, immutables.Map(servers)


def client_json(event: Event) -> bytes:
    """The event for clients, without `unsigned`: JSON that ends with a brace to splice into."""
    return orjson.dumps(client_event(event))


class Rooms:
    """All rooms of this server: hot ones in memory, the others loaded when asked for."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        self._database = database
        self._server_name = server_name
        self._hot: OrderedDict[RoomId, Room] = OrderedDict()
        self._loading: dict[RoomId, asyncio.Future[Room | None]] = {}
        self._events: ByteBoundedCache[KnownEvent] = ByteBoundedCache(
            limits.EVENT_CACHE_BYTES, lambda known: 3 * len(known.event.raw) + 600
        )
        self._client: ByteBoundedCache[bytes] = ByteBoundedCache(
            limits.CLIENT_JSON_CACHE_BYTES, lambda client: len(client) + 150
        )
        self._states: ByteBoundedCache[Chain] = ByteBoundedCache(
            limits.STATE_CACHE_BYTES,
            lambda chain: 200 + 150 * sum(len(link.delta) for link in chain),
        )

    # Rooms

    def hot(self, room_id: RoomId) -> Room | None:
        """The room if it is in memory; it counts as used now."""
        room = self._hot.get(room_id)
        if room is not None:
            self._hot.move_to_end(room_id)
        return room

    async def get(self, room_id: RoomId) -> Room | None:
        """The room, loaded if need be; None for one that we know nothing of but its ID."""
        room = self.hot(room_id)
        if room is not None:
            return room
        waiting = self._loading.get(room_id)
        if waiting is not None:
            return await asyncio.shield(waiting)
        future: asyncio.Future[Room | None] = asyncio.get_running_loop().create_future()
        self._loading[room_id] = future
        try:
            room = await self._load(room_id)
        except BaseException as error:
            # Who waits gets the error too; if nobody waits, it was raised here all the same.
            future.set_exception(
                error if isinstance(error, Exception) else asyncio.CancelledError()
            )
            future.exception()
            raise
        else:
            if room is not None:
                room = self._hot.setdefault(room_id, room)
            future.set_result(room)
        finally:
            del self._loading[room_id]
        self._evict()
        return room

    def add(self, room: Room) -> None:
        """Takes in a room that was just made; it has staged work."""
        assert room.room_id not in self._hot, "a room is made once"
        self._hot[room.room_id] = room
        self._evict()

    def drop(self, room_id: RoomId) -> None:
        """Forgets a room that came to nothing (its creation failed)."""
        self._hot.pop(room_id, None)

    @contextmanager
    def pinned(self, room: Room) -> Iterator[Room]:
        """Keeps a room in memory."""
        room.pins += 1
        try:
            yield room
        finally:
            room.pins -= 1

    def _evict(self) -> None:
        if len(self._hot) < limits.HOT_ROOMS_MIN:
            return
        total = sum(room.bytes for room in self._hot.values())
        for room_id, room in list(self._hot.items()):
            if total <= limits.HOT_ROOMS_BYTES:
                return
            if room.pins or room.unsettled or room.turn.locked():
                continue
            total -= room.bytes
            del self._hot[room_id]

    async def _load(self, room_id: RoomId) -> Room | None:
        async with self._database.connection() as connection:
            row = await room_rows.by_room_id(connection, room_id)
            if row is None or row["snapshot_nid"] is None:
                return None
            nid = row["room_nid"]
            chain = await self._load_chain(connection, nid, row["snapshot_nid"])
            heads = await self._load_heads(connection, nid, row["heads"], chain)
            newest = await event_rows.newest(
                connection, nid, after=0, upto=row["position"], limit=limits.ROOM_LOAD_EVENTS
            )
            awaited = await redaction_rows.awaited(connection, nid)
        version = room_version(row["version"])
        state = state_of(chain)
        joined, invited, servers = membership_counts(state)
        view = RoomView(state, chain, heads, row["n"], joined, invited, servers, row["position"])
        room = Room(room_id, nid, version, view)
        room.joined_local = self._locals(state)
        for one in reversed(newest):
            room.remember(Placed(one["position"], self.entry_of(one, room)))
        room.awaited_targets = {EventId(k): EventId(v) for k, v in awaited.items()}
        room.ring_start = newest[-1]["position"] - 1 if newest else row["position"]
        return room

    def _locals(self, state: Mapping[StateKey, StateRef]) -> set[UserId]:
        own = ":" + self._server_name
        return {
            UserId(user)
            for (kind, user), ref in state.items()
            if kind == "m.room.member" and ref.membership == "join" and user.endswith(own)
        }

    async def _load_heads(
        self, connection: Connection, nid: int, heads: list[int], current: Chain
    ) -> tuple[Head, ...]:
        rows = await event_rows.heads(connection, nid, heads)
        loaded = []
        for row in rows:
            chain = current
            if row["snapshot_after"] != current[-1].nid:
                chain = await self._load_chain(connection, nid, row["snapshot_after"])
            depth = orjson.loads(row["json"])["depth"]
            loaded.append(Head(row["event_id"], row["event_nid"], depth, state_of(chain), chain))
        return tuple(loaded)

    # State

    async def _load_chain(self, connection: Connection, room_nid: int, snapshot: int) -> Chain:
        cached = self._states.get(str(snapshot))
        if cached is not None:
            return cached
        links = await snapshot_rows.chain(connection, room_nid, snapshot)
        nids = {nid for link in links for nid in (*link["added"], *link["removed"])}
        refs = {
            row["event_nid"]: (key_of(row), ref_of(row))
            for row in await event_rows.refs(connection, room_nid, nids)
        }
        chain = tuple(
            Link(
                link["ordinal"],
                link["snapshot_nid"],
                {refs[nid][0]: None for nid in link["removed"]}
                | {refs[nid][0]: refs[nid][1] for nid in link["added"]},
                tuple(link["removed"]),
            )
            for link in links
        )
        self._states.put(str(snapshot), chain)
        return chain

    async def chain(self, room: Room, snapshot: int) -> Chain:
        """A snapshot of a room with its bases."""
        for view in (room.view, room.staged):
            if view.chain[-1].nid == snapshot:
                return view.chain
        async with self._database.connection() as connection:
            return await self._load_chain(connection, room.nid, snapshot)

    def state_of(self, room: Room, chain: Chain) -> StateMap:
        """The state that a chain leads to."""
        for view in (room.view, room.staged):
            if view.chain is chain:
                return view.state
        return state_of(chain)

    async def _state_at(self, room: Room, event_id: EventId, read: SnapshotRead) -> StateMap | None:
        async with self._database.connection() as connection:
            snapshot = await read(connection, room.nid, event_id)
        return None if snapshot is None else self.state_of(room, await self.chain(room, snapshot))

    async def state_before(self, room: Room, event_id: EventId) -> StateMap | None:
        """The state before a stored event; None for an outlier or an unknown one."""
        return await self._state_at(room, event_id, event_rows.snapshot_before)

    async def state_after(self, room: Room, event_id: EventId) -> StateMap | None:
        """The state after a stored event; None for an outlier or an unknown one."""
        return await self._state_at(room, event_id, event_rows.snapshot_after)

    # Events

    def remember(self, known: KnownEvent, client: bytes | None = None) -> None:
        """Keeps an event in memory, as committed or staged under its own ID."""
        self._events.put(known.event.event_id, known)
        if client is not None:
            self._client.put(known.event.event_id, client)

    def forget_event(self, event_id: EventId) -> None:
        """Drops an event from memory: its stored form changed."""
        self._events.drop(event_id)
        self._client.drop(event_id)

    def apply_redaction(self, room: Room, target: Event, redaction: EventId) -> None:
        """Renews what is in memory of an event that was redacted; `target` is its redacted form."""
        self.forget_event(target.event_id)
        room.forget_auth()
        for placed in room.ring:
            entry = _entry(placed)
            if entry.event.event_id == target.event_id:
                room.replace_in_ring(
                    msgspec.structs.replace(
                        entry, event=target, client=client_json(target), redacted_by=redaction
                    )
                )
                return

    def cached_event(self, event_id: EventId) -> Event:
        """An event in memory; raises NotLoaded."""
        known = self._events.get(event_id)
        if known is None:
            raise NotLoaded(event_id)
        return known.event

    async def events(self, event_ids: Collection[EventId]) -> dict[EventId, KnownEvent]:
        """Those of the events that are stored, outliers and rejected ones included."""
        found, missing = self._events.split(event_ids)
        if missing:
            async with self._database.connection() as connection:
                rows = await event_rows.by_id(connection, missing)
            for row in rows:
                known = known_event(row)
                self._events.put(known.event.event_id, known)
                found[known.event.event_id] = known
        return found  # type: ignore[return-value]  # EventId is str at run time

    async def client_events(self, event_ids: Collection[EventId]) -> dict[EventId, bytes]:
        """Events for clients without `unsigned`, redactions applied: JSON that ends in `}`."""
        found, missing = self._client.split(event_ids)
        if missing:
            for event_id, known in (await self.events([EventId(i) for i in missing])).items():
                client = client_json(known.event)
                self._client.put(event_id, client)
                found[event_id] = client
        return found  # type: ignore[return-value]

    async def state_events(
        self, state: Mapping[StateKey, StateRef], keys: Collection[StateKey]
    ) -> dict[StateKey, Event]:
        """The events that a state has for some keys."""
        wanted = {key: state[key].event_id for key in keys if key in state}
        known = await self.events(list(wanted.values()))
        return {key: known[event_id].event for key, event_id in wanted.items()}

    async def auth_chain(self, event_ids: Collection[EventId]) -> dict[EventId, KnownEvent]:
        """All events reached by auth_events from these, which must be stored."""
        chain: dict[EventId, KnownEvent] = {}
        frontier = {
            auth
            for known in (await self.events(event_ids)).values()
            for auth in known.event.auth_events
        }
        while frontier:
            loaded = await self.events(frontier)
            chain.update(loaded)
            frontier = {
                auth for known in loaded.values() for auth in known.event.auth_events
            } - chain.keys()
        return chain

    def auth_state(self, room: Room, state: StateMap) -> AuthState:
        """A view of a state for the auth rules; kept while the state stays the same. Looking up
        an event that is not in memory raises NotLoaded."""
        return room.auth_state(state, self.cached_event)

    def entry_of(self, row: Row, room: Room) -> EventEntry:
        """The log entry of a stored event of a room."""
        event_id = row["event_id"]
        known = self._events.get(event_id)
        event = known.event if known else load_event(row["json"], room.version, event_id)
        client = self._client.get(event_id) or client_json(event)
        return EventEntry(
            room_id=room.room_id,
            event=event,
            nid=row["event_nid"],
            order=(row["n"], row["fill"]),
            client=client,
            transaction=_transaction(row["transaction_of"], row["sender"]),
            replaces=row["replaces"],
            redacted_by=row["redacted_by"],
            to_federate=row["to_federate"],
        )


def _transaction(stored: str | None, sender: str) -> TransactionKey | None:
    if stored is None:
        return None
    device, _, transaction_id = stored.partition("\n")
    return TransactionKey(UserId(sender), device, "", transaction_id)  # type: ignore[arg-type]


def key_of(row: Row) -> StateKey:
    """The state key of a stored state event."""
    return unescape(row["type"]), unescape(row["state_key"])


def ref_of(row: Row) -> StateRef:
    """What a state map holds of a stored event."""
    return StateRef(row["event_id"], row["event_nid"], row["membership"])


def known_event(row: Row) -> KnownEvent:
    """An event as it was stored (a row of `storage.events.by_id`)."""
    event = load_event(row["json"], room_version(row["version"]), row["event_id"])
    return KnownEvent(
        event,
        rejected=row["verdict"] == event_rows.REJECTED,
        soft_failed=row["verdict"] == event_rows.SOFT_FAILED,
        outlier=row["outlier"],
    )
