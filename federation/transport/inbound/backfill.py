"""Older history, fetched when a client pages back beyond the known events.

Rules:
1. Only ancestors of the requested events count, each with all required signatures. An event that
   its auth events don't allow is handed on as rejected.
2. The state before an open end (an event with a parent that is neither stored nor in the answer)
   is unverified state from the asked server; its events are stored first.
3. Servers are asked in turn until one returns new events; the number of events is bounded.

Spec: server-server API, "Backfilling and retrieving missing events".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey
from federation.graph.admission import needed_auth_events
from federation.graph.resolution.chains import topological_order
from federation.limits import (
    BACKFILL_ANSWER_BYTES_MAX,
    BACKFILL_AUTH_CHAINS_MAX,
    BACKFILL_EVENTS_SERVED_MAX,
    BACKFILL_STATES_MAX,
    REQUEST_S_MAX,
    SERVERS_ASKED_MAX,
)
from federation.ports import EventStore, RoomWriter
from federation.transport.events.event_fetcher import EventFetcher, RoomRef
from federation.transport.inbound.gap_filler import take_ancestors
from federation.transport.requests.client import (
    FederationClient,
    FederationError,
    ServerRequest,
    build_target,
)
from federation.transport.requests.dialer import Bounds

_BOUNDS = Bounds(timeout_s=REQUEST_S_MAX, bytes_max=BACKFILL_ANSWER_BYTES_MAX)


class Backfiller:
    """Fetches history and hands it to the writer."""

    def __init__(
        self,
        client: FederationClient,
        *,
        store: EventStore,
        writer: RoomWriter,
        fetcher: EventFetcher,
    ) -> None:
        self._client, self._store, self._writer = client, store, writer
        self._fetcher = fetcher

    async def backfill(
        self,
        room: RoomRef,
        event_ids: Sequence[EventId],
        servers: Sequence[ServerName],
        limit: int,
    ) -> int:
        """Fetches up to `limit` (at most 100) events before `event_ids`, which are stored, while
        their parents aren't. Returns how many were stored; 0 when no server could help."""
        limit = min(limit, BACKFILL_EVENTS_SERVED_MAX)
        for server in servers[:SERVERS_ASKED_MAX]:
            try:
                stored = await self._backfill_from(server, room, event_ids, limit)
            except FederationError:
                continue  # the next server may have it
            if stored:
                return stored
        return 0

    async def _backfill_from(
        self, server: ServerName, room: RoomRef, event_ids: Sequence[EventId], limit: int
    ) -> int:
        query = [("v", str(event_id)) for event_id in event_ids] + [("limit", str(limit))]
        target = build_target("/_matrix/federation/v1/backfill", room.room_id, query=query)
        request = ServerRequest(server, "GET", target, None, _BOUNDS)
        given = await self._fetcher.fetch_list(request, "pdus", room, limit + len(event_ids))
        events, rejected = await self._usable(server, room, await self._ancestors(event_ids, given))
        states = await self._states(server, room, events) if events else None
        if states is None:
            return 0
        await self._writer.store_backfill(events, states, rejected)
        return len(events)

    async def _states(
        self, server: ServerName, room: RoomRef, events: Sequence[Event]
    ) -> dict[EventId, Mapping[StateKey, EventId]] | None:
        """Returns the states before the open ends, those of the oldest; None where the server
        doesn't tell the first of them."""
        inside = {event.event_id for event in events}
        outside = {parent for event in events for parent in event.prev_events} - inside
        known = await self._store.load_events(outside)
        lacking = {one for one in outside if one not in known or known[one].outlier}
        ends = [event for event in events if not lacking.isdisjoint(event.prev_events)]
        states: dict[EventId, Mapping[StateKey, EventId]] = {}
        for event in ends[:BACKFILL_STATES_MAX]:
            try:
                state = await self._fetcher.fetch_state(server, event.event_id, room)
            except FederationError:
                if not states:
                    raise
                break  # the writer works with the states that are known
            if state is not None:
                states[event.event_id] = state
            elif not states:
                return None
        return states

    async def _ancestors(
        self, event_ids: Sequence[EventId], given: Sequence[Event]
    ) -> dict[EventId, Event]:
        """Returns those of the given events from which `event_ids` descend and that have no place
        here."""
        known = await self._store.load_events([*event_ids, *(one.event_id for one in given)])
        placed = {one for one, found in known.items() if not found.outlier}
        parents = {p for one in event_ids if one in known for p in known[one].event.prev_events}
        found: dict[EventId, Event] = {}
        take_ancestors([one for one in given if one.event_id not in placed], parents, found)
        return found

    async def _usable(
        self, server: ServerName, room: RoomRef, events: Mapping[EventId, Event]
    ) -> tuple[list[Event], frozenset[EventId]]:
        """Returns the events that are signed as they must be, parents first; which of them their
        auth events don't allow."""
        for _ in range(BACKFILL_AUTH_CHAINS_MAX):
            lacking = await self._lacks_auth_events(events)
            if lacking is None:
                break
            chain = await self._fetcher.fetch_auth_chain(server, lacking, room)
            if not (await self._fetcher.keep_outliers(chain, giver=server)).accepted:
                break
        checked = await self._fetcher.check(list(events.values()))
        passed = {event.event_id: event for event in (*checked.accepted, *checked.rejected)}
        order = topological_order(passed, lambda one: passed[one].prev_events)
        rejected = frozenset(event.event_id for event in checked.rejected)
        return [passed[event_id] for event_id in order], rejected

    async def _lacks_auth_events(self, events: Mapping[EventId, Event]) -> EventId | None:
        """Returns the newest event some of whose auth events are neither stored nor among
        `events`."""
        cited = {auth for event in events.values() for auth in needed_auth_events(event)}
        missing = cited - events.keys() - (await self._store.load_events(cited)).keys()
        lacking = [one for one in events.values() if missing & needed_auth_events(one)]
        return max(lacking, key=lambda one: one.depth).event_id if lacking else None
