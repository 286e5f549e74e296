"""Cache of events of all rooms: parsed, and as JSON for clients; others are loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from federation.bounded_cache import BoundedCache, ByteBoundedCache
from federation.events.event import Event
from federation.events.ids import EventId
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.entries import client_json, event_bytes
from homeserver.engine.rooms.room import NotLoaded
from homeserver.engine.rooms.stored import known_event
from homeserver.engine.store import EngineStore


class EventMemory:
    """Committed events by ID.

    It also keeps some IDs that are known not to be stored: an incoming event is looked up by
    several steps before it is stored. All code that stores events calls `stored` or `remember`.
    """

    def __init__(self, store: EngineStore) -> None:
        self._store = store
        self._events: ByteBoundedCache[EventId, StoredEvent] = ByteBoundedCache(
            limits.EVENT_CACHE_BYTES, lambda known: event_bytes(known.event)
        )
        self._client: ByteBoundedCache[EventId, bytes] = ByteBoundedCache(
            limits.CLIENT_JSON_CACHE_BYTES, lambda client: len(client) + 150
        )
        self._missing: BoundedCache[str, None] = BoundedCache(limits.EVENT_IDS_REMEMBERED)
        # lately: a look-up may be on its way that began before
        self._stored: BoundedCache[str, None] = BoundedCache(limits.EVENT_IDS_REMEMBERED)

    def known(self, event_id: EventId) -> StoredEvent | None:
        """Returns an event, if it is in memory."""
        return self._events.get(event_id)

    def client(self, event_id: EventId) -> bytes | None:
        """Returns an event's JSON for clients, if it is in memory."""
        return self._client.get(event_id)

    def remember(self, known: StoredEvent, client: bytes | None = None) -> None:
        """Adds a committed event."""
        self.stored([known.event.event_id])
        self._events.put(known.event.event_id, known)
        if client is not None:
            self._client.put(known.event.event_id, client)

    def stored(self, event_ids: Iterable[EventId]) -> None:
        """Notes that these events are stored from now on."""
        for event_id in event_ids:
            self._missing.pop(event_id)
            self._stored.put(event_id, None)

    def forget_event(self, event_id: EventId) -> None:
        """Drops an event whose stored form changed."""
        self._events.drop(event_id)
        self._client.drop(event_id)

    def cached_event(self, event_id: EventId) -> Event:
        """Returns an event in memory; raises NotLoaded."""
        known = self._events.get(event_id)
        if known is None:
            raise NotLoaded(event_id)
        return known.event

    async def events(self, event_ids: Collection[EventId]) -> dict[EventId, StoredEvent]:
        """Returns those of the events that are stored, outliers and rejected ones included."""
        found, absent = self._events.split(event_ids)
        unknown = [event_id for event_id in absent if event_id not in self._missing]
        if unknown:
            rows = await self._store.events.by_id(unknown)
            for row in rows:
                known = known_event(row)
                self._events.put(known.event.event_id, known)
                found[known.event.event_id] = known
            for event_id in unknown:
                if event_id not in found and event_id not in self._stored:
                    self._missing.put(event_id, None)
        return found

    async def raw(self, event_ids: Collection[EventId]) -> dict[EventId, bytes]:
        """Returns stored events as other servers get them, unparsed, in pieces; they aren't added
        to memory."""
        found, absent = self._events.split(event_ids)
        raws = {EventId(event_id): known.event.raw for event_id, known in found.items()}
        for start in range(0, len(absent), limits.EVENTS_READ_AT_ONCE):
            piece = absent[start : start + limits.EVENTS_READ_AT_ONCE]
            raws.update(await self._store.events.raw_by_id(piece))
        return raws

    async def client_events(self, event_ids: Collection[EventId]) -> dict[EventId, bytes]:
        """Returns events for clients without `unsigned`, redactions applied: JSON that ends in
        `}`.
        """
        found, missing = self._client.split(event_ids)
        if missing:
            for event_id, known in (await self.events([EventId(i) for i in missing])).items():
                client = client_json(known.event)
                self._client.put(event_id, client)
                found[event_id] = client
        return found

    async def auth_chain(self, event_ids: Collection[EventId]) -> dict[EventId, StoredEvent]:
        """Returns all events reached by auth_events from these, which must be stored."""
        chain: dict[EventId, StoredEvent] = {}
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
