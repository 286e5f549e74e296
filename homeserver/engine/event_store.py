"""Reads of rooms and events for federation (`federation.ports.EventStore`): committed ones only."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey
from federation.events.room_versions import RoomVersion
from federation.graph.auth.auth_rules import AuthState, create_event_id
from federation.graph.policy_servers import PolicyServer
from federation.ports import StoredEvent
from homeserver.engine.local.policy_signer import EventSigner
from homeserver.engine.log.committer import Committer
from homeserver.engine.recheck.server_visibility import ServerVisibility
from homeserver.engine.remote.remote_event_writer import RemoteEventWriter
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.snapshots import EventIds, StateMap
from homeserver.engine.store import EngineStore


def _ids(state: StateMap) -> dict[StateKey, EventId]:
    return {key: ref.event_id for key, ref in state.items()}


class EngineEventStore:
    """The engine's reads for federation."""

    def __init__(
        self,
        store: EngineStore,
        rooms: Rooms,
        remote_event_writer: RemoteEventWriter,
        *,
        event_signer: EventSigner,
        resolver: StateResolver,
        committer: Committer,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._remote_events = remote_event_writer
        self._recommender = event_signer
        self._resolver = resolver
        self._committer = committer
        self._visibility = ServerVisibility(store, rooms)

    async def room_version(self, room_id: RoomId) -> RoomVersion | None:
        """`EventStore.room_version`."""
        room = await self._rooms.get(room_id)
        return None if room is None else room.version

    async def load_events(self, event_ids: Collection[EventId]) -> dict[EventId, StoredEvent]:
        """`EventStore.load_events`."""
        return await self._rooms.events(event_ids)

    async def heads(self, room_id: RoomId) -> tuple[EventId, ...]:
        """`EventStore.heads`."""
        room = await self._rooms.get(room_id)
        return () if room is None else tuple(head.event_id for head in room.view.heads)

    async def state_ids_before(self, event_id: EventId) -> Mapping[StateKey, EventId] | None:
        """`EventStore.state_ids_before`."""
        known = (await self._rooms.events([event_id])).get(event_id)
        room = await self._rooms.get(known.event.room_id) if known else None
        if room is None:
            return None
        state = await self._rooms.state_before(room, event_id)
        return None if state is None else _ids(state)

    async def state_before(self, event: Event) -> AuthState | None:
        """`EventStore.state_before`."""
        room = await self._rooms.get(event.room_id)
        if room is None:
            return None
        if not event.prev_events:
            return AuthState(event.version, lambda key: None)
        branches = await self._remote_events.states_after(room, event.prev_events)
        if not branches:
            return None
        await self._committer.numbers.ready(1)
        before, _ = await self._resolver.resolve(room, branches, self._committer.numbers.take)
        await self._load_for(event, room, before.state)
        return self._remote_events.view_auth(room, before.state)

    async def _load_for(self, event: Event, room: Room, state: StateMap) -> None:
        """Loads the events that the rules will look up, so that the pure check finds them in
        memory.
        """
        keys: set[StateKey] = {
            event_types.CREATE_KEY,
            event_types.POWER_LEVELS_KEY,
            event_types.JOIN_RULES_KEY,
            (event_types.MEMBER, event.sender),
        }
        if event.type == event_types.MEMBER:
            keys.add((event_types.MEMBER, event.state_key or ""))
            authoriser = event.content.get("join_authorised_via_users_server")
            if isinstance(authoriser, str):
                keys.add((event_types.MEMBER, authoriser))
            invite = event.content.get("third_party_invite")
            signed = invite.get("signed") if isinstance(invite, dict) else None
            token = signed.get("token") if isinstance(signed, dict) else None
            if isinstance(token, str):
                keys.add((event_types.THIRD_PARTY_INVITE, token))
        await self._rooms.state_events(state, keys)

    async def first_depth(self, room_id: RoomId) -> int:
        """`EventStore.first_depth`."""
        room = await self._rooms.get(room_id)
        if room is None:
            return 0
        return await self._store.events.first_depth(room.row_id)

    async def current_state_ids(self, room_id: RoomId) -> Mapping[StateKey, EventId]:
        """`EventStore.current_state_ids`."""
        room = await self._rooms.get(room_id)
        return {} if room is None else EventIds(room.view.state)

    async def auth_chain(self, event_ids: Collection[EventId]) -> dict[EventId, Event]:
        """`EventStore.auth_chain`."""
        chain = await self._rooms.memory.auth_chain(event_ids)
        found = {event_id: known.event for event_id, known in chain.items()}
        for known in (await self._rooms.events(list(event_ids)[:1])).values():  # all of one room
            create = create_event_id(known.event.room_id, known.event.version)
            if create is not None and set(event_ids) != {create}:
                found |= {one: it.event for one, it in (await self._rooms.events([create])).items()}
        return found

    async def backfill(
        self, room_id: RoomId, event_ids: Collection[EventId], limit: int
    ) -> list[Event]:
        """`EventStore.backfill`."""
        found: list[Event] = []
        known: set[EventId] = set()
        frontier = set(event_ids)
        nearest: list[tuple[int, EventId, Event]] = []
        while len(found) < limit:
            new = frontier - known
            known |= new
            for event in await self._placed(room_id, new) if new else ():
                heapq.heappush(nearest, (-event.depth, event.event_id, event))
            if not nearest:
                break
            event = heapq.heappop(nearest)[2]
            found.append(event)
            frontier = set(event.prev_events)
        return found

    async def missing_events(
        self,
        room_id: RoomId,
        *,
        earliest: Collection[EventId],
        latest: Collection[EventId],
        limit: int,
        min_depth: int,
    ) -> list[Event]:
        """`EventStore.missing_events`."""
        seen = {*earliest, *latest}
        found: list[Event] = []
        frontier = _parents(await self._placed(room_id, latest)) - seen
        while frontier and len(found) < limit:
            loaded = [
                one for one in await self._placed(room_id, frontier) if one.depth >= min_depth
            ]
            found += loaded
            seen |= frontier
            frontier = _parents(loaded) - seen
        return list(reversed(found[:limit]))

    async def _placed(self, room_id: RoomId, event_ids: Collection[EventId]) -> list[Event]:
        """Returns those of the events that are in the room and have a place in its graph."""
        return [
            known.event
            for known in (await self._rooms.events(event_ids)).values()
            if known.event.room_id == room_id and not (known.outlier or known.rejected)
        ]

    async def is_server_joined(self, room_id: RoomId, server: ServerName) -> bool:
        """`EventStore.is_server_joined`."""
        room = await self._rooms.get(room_id)
        return room is not None and server in room.view.servers

    async def joined_at(
        self, room_id: RoomId, server: ServerName, event_ids: Collection[EventId]
    ) -> frozenset[EventId]:
        """`EventStore.joined_at`."""
        room = await self._rooms.get(room_id)
        if room is None:
            return frozenset()
        return await self._visibility.joined_at(room, server, event_ids)

    async def joined_servers(self, room_id: RoomId) -> frozenset[ServerName]:
        """`EventStore.joined_servers`."""
        room = await self._rooms.get(room_id)
        return frozenset() if room is None else frozenset(room.view.servers)

    async def policy_server(self, room_id: RoomId) -> PolicyServer | None:
        """`EventStore.policy_server`."""
        room = await self._rooms.get(room_id)
        return None if room is None else await self._recommender.policy_of(room, room.view)

    async def visible_to_server(
        self, server: ServerName, events: Sequence[Event]
    ) -> dict[EventId, Event]:
        """`EventStore.visible_to_server`."""
        if not events:
            return {}
        room = await self._rooms.get(events[0].room_id)
        if room is None:
            return {}
        return await self._visibility.shown(room, server, events)


def _parents(events: Iterable[Event]) -> set[EventId]:
    return {parent for event in events for parent in event.prev_events}
