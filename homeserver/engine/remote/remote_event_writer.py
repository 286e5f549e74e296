"""Writes events of other servers into rooms (`federation.ports.RoomWriter`).

Rules:
1. All network requests are complete by then. The last check is made here against the current heads
   (`settle`), under the room's lock; then the event is staged like a local one.
2. A rejected or soft-failed event is stored with its verdict; it isn't a head, and clients don't
   see it.
3. A join over federation imports its state in bulk, as outliers; then one unit makes it current.
4. As the resident server we commit first, then answer (design, "What keeps it right", 9).
5. A join to a restricted room gets a local user who authorises it (`local.authorisers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from weakref import WeakValueDictionary

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.event import Event, load_auth_events
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId, server_of
from federation.events.room_versions import RoomVersion
from federation.graph.admission import Accepted
from federation.graph.auth.auth_rules import AuthState, auth_event_keys, check_auth, create_event_id
from federation.graph.building import EventDraft, references, unsigned_event
from federation.graph.policy_servers import PolicyServer
from federation.ports import (
    JoinedRoom,
    PolicyServerChanged,
    ResidentAnswer,
    Template,
)
from homeserver import limits
from homeserver.engine.local.authorisers import Authorisers
from homeserver.engine.local.writer import Writer
from homeserver.engine.log.committer import Committer
from homeserver.engine.recheck.corrections import Corrections
from homeserver.engine.recheck.due_rooms import DueRooms
from homeserver.engine.recheck.rechecks import Rechecks
from homeserver.engine.recheck.verdict_checker import VerdictChecker
from homeserver.engine.remote.acceptance import Acceptance, Verdict
from homeserver.engine.remote.chunks import Chunk
from homeserver.engine.remote.imports import Imports
from homeserver.engine.remote.outside_memberships import OutsideMemberships
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.snapshots import StateMap, StateSnapshot
from homeserver.engine.store import EngineStore
from homeserver.metrics import ServerMetrics


class RemoteEventWriter:
    """Accepts events of other servers."""

    def __init__(
        self,
        store: EngineStore,
        rooms: Rooms,
        committer: Committer,
        *,
        writer: Writer,
        resolver: StateResolver,
        server_name: ServerName,
        forget_user: Callable[[UserId], None],
        metrics: ServerMetrics,
    ) -> None:
        self._rooms = rooms
        self._committer = committer
        self._writer = writer
        self._resolver = resolver
        self._server_name = server_name
        self._authorisers = Authorisers(rooms, server_name)
        self.outside = OutsideMemberships(store, rooms, committer, server_name)
        self._joining: WeakValueDictionary[RoomId, asyncio.Lock] = WeakValueDictionary()
        checker, due_rooms = VerdictChecker(rooms), DueRooms()
        self._imports = Imports(
            store,
            rooms,
            committer,
            writer,
            server_name,
            forget_user,
            resolver=resolver,
            checker=checker,
            due_rooms=due_rooms,
        )
        self._acceptance = Acceptance(
            store,
            rooms,
            committer,
            writer=writer,
            resolver=resolver,
            imports=self._imports,
            checker=checker,
            due_rooms=due_rooms,
        )
        corrections = Corrections(
            store,
            rooms,
            stager=writer.stager,
            resolver=resolver,
            take_row_id=committer.numbers.take,
            settle=self._acceptance.settle,
        )
        self.rechecks = Rechecks(
            store,
            rooms,
            committer,
            writer=writer,
            resolver=resolver,
            checker=checker,
            corrections=corrections,
            due_rooms=due_rooms,
            metrics=metrics,
        )

    # Events

    async def accept(
        self, event: Event, verdict: Verdict, *, asked: PolicyServer | None = None
    ) -> Verdict:
        """`RoomWriter.accept`."""
        return await self._acceptance.accept(event, verdict, None, to_federate=False, asked=asked)

    async def accept_with_state(
        self,
        event: Event,
        verdict: Verdict,
        state_before: Mapping[StateKey, EventId],
        *,
        asked: PolicyServer | None = None,
    ) -> Verdict:
        """`RoomWriter.accept_with_state`."""
        return await self._acceptance.accept(
            event, verdict, state_before, to_federate=False, asked=asked
        )

    async def recommended(self, event: Event) -> tuple[Event, PolicyServer | None]:
        """Returns an event of ours for other servers to sign, with the signature of its room's
        policy server, if it uses one. Waits for that, a bounded time; raises MatrixError."""
        room = await self._writer.room(event.room_id)
        return await self._writer.event_signer.sign(room, event)

    async def accept_own(self, event: Event, *, asked: PolicyServer | None = None) -> Verdict:
        """Hands in an event of ours that another server also signed (an invite). Raises as
        `accept`."""
        try:
            return await self._acceptance.accept(
                event, Accepted(), None, to_federate=True, asked=asked
            )
        except PolicyServerChanged:
            raise MatrixError(503, "M_UNKNOWN", "the room's policy server changes") from None

    async def states_after(
        self, room: Room, event_ids: Collection[EventId]
    ) -> list[StateSnapshot] | None:
        """Returns the committed states after some events; None if one has no known place."""
        return await self._acceptance.states_after(room, event_ids, staged=False)

    # Bulk writes

    async def store_outliers(self, events: Sequence[Event], rejected: Collection[EventId]) -> None:
        """`RoomWriter.store_outliers`."""
        await self._imports.store_outliers(events, rejected)

    async def store_backfill(
        self,
        events: Sequence[Event],
        states: Mapping[EventId, Mapping[StateKey, EventId]],
        rejected: Collection[EventId] = frozenset(),
    ) -> None:
        """`RoomWriter.store_backfill`."""
        room = await self._rooms.get(events[0].room_id) if events else None
        if room is not None:
            await self._imports.store_backfill(Chunk(events, states, rejected))

    async def import_join(self, joined: JoinedRoom) -> None:
        """`RoomWriter.import_join`."""
        turn = self._joining.setdefault(joined.room_id, asyncio.Lock())
        async with turn:  # the second local user joins a room that we are in
            room = await self._rooms.get(joined.room_id)
            if room is None or self._server_name not in room.view.servers:
                await self._imports.join(joined, room)
                return
        await self.store_outliers([*joined.state, *joined.auth_chain], joined.rejected)
        state = {event.key: event.event_id for event in joined.state}
        policy = await self._writer.event_signer.policy_of(room, room.view)
        await self._acceptance.accept(
            joined.event, Accepted(), state, to_federate=False, asked=policy
        )

    # Joins, leaves and knocks of other servers' users

    async def template(self, draft: EventDraft, room_id: RoomId) -> Template:
        """`RoomWriter.template`."""
        room = _resident(await self._rooms.get(room_id), self._server_name)
        draft = await self._authorisers.complete(room, draft)
        view = room.view
        state = view.state
        keys = auth_event_keys(
            draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
            version=room.version,
        )
        heads = view.heads[-limits.HEADS_PER_EVENT :]
        prev_events = [head.event_id for head in heads]
        auth_events = [state[key].event_id for key in keys if key in state]
        pdu: JsonObject = {
            "type": draft.type,
            "room_id": room_id,
            "sender": draft.sender,
            "state_key": draft.state_key,
            "content": draft.content,
            "prev_events": await self._references(room, prev_events),
            "auth_events": await self._references(room, auth_events),
            "depth": max(head.depth for head in heads) + 1,
            "origin": self._server_name,
            "origin_server_ts": self._writer.stager.time_of(draft),
        }
        await self._check_template(room, draft, pdu, prev_events)
        return Template(room.version, pdu)

    async def authorise_join(self, event: Event) -> None:
        """`RoomWriter.authorise_join`."""
        room = _resident(await self._rooms.get(event.room_id), self._server_name)
        await self._authorisers.check(room, event)

    async def _references(self, room: Room, event_ids: Sequence[EventId]) -> list[object]:
        stager = self._writer.stager
        return await self._rooms.loading(
            lambda: references(room.version, event_ids, lambda one: stager.cited(room, one))
        )

    async def _check_template(
        self, room: Room, draft: EventDraft, pdu: JsonObject, prev_events: Sequence[EventId]
    ) -> None:
        event = unsigned_event(
            draft,
            version=room.version,
            room_id=room.room_id,
            prev_events=prev_events,
            depth=pdu["depth"],
            time_ms=pdu["origin_server_ts"],
        )
        state = self.view_auth(room, room.view.state)
        signers = {self._server_name, server_of(draft.sender)}  # of the later event
        failure = await self._rooms.loading(
            lambda: check_auth(event, state, verified_servers=signers)
        )
        if failure is not None:
            raise MatrixError(403, "M_FORBIDDEN", failure.detail)

    def view_auth(self, room: Room, state: StateMap) -> AuthState:
        """Returns a committed state for the auth rules."""

        def lookup(key: StateKey) -> Event | None:
            ref = state.get(key)
            return None if ref is None else self._rooms.memory.cached_event(ref.event_id)

        return AuthState(room.version, lookup)

    async def accept_membership(
        self, event: Event, *, asked: PolicyServer | None = None
    ) -> ResidentAnswer:
        """`RoomWriter.accept_membership`."""
        room = _resident(await self._rooms.get(event.room_id), self._server_name)
        branches = await self.states_after(room, event.prev_events)
        if branches is None:
            raise MatrixError(400, "M_BAD_STATE", "the event names events that are not known here")
        await self._committer.numbers.ready(4)
        before, _ = await self._resolver.resolve(room, branches, self._committer.numbers.take)
        state = self.view_auth(room, before.state)
        failure = await self._rooms.loading(lambda: check_auth(event, state))
        if failure is not None:
            raise MatrixError(403, "M_FORBIDDEN", failure.detail)
        verdict = await self._acceptance.accept(
            event, Accepted(), None, to_federate=True, asked=asked
        )
        if not isinstance(verdict, Accepted):
            raise MatrixError(403, "M_FORBIDDEN", str(verdict.failure))
        return await self._answer(room, event, before.state)

    async def _answer(self, room: Room, event: Event, state: StateMap) -> ResidentAnswer:
        ids = [ref.event_id for ref in state.values()]
        raws = await self._rooms.memory.raw([*ids, event.event_id])
        chain = await self._auth_chain(raws, room)
        return ResidentAnswer(
            event.raw, [raws[one] for one in ids], chain, sorted(room.view.servers)
        )

    async def _auth_chain(self, raws: Mapping[EventId, bytes], room: Room) -> Sequence[bytes]:
        """Returns the auth chain of these events, some of themselves included; and the create
        event, which all depend on, also if its hash is the room ID and no event names it."""
        version = room.version
        chain: dict[EventId, bytes] = {}
        frontier = await asyncio.to_thread(_cited, raws, version)
        implied = create_event_id(room.room_id, version)
        if implied is not None:
            frontier.add(implied)
        while frontier:
            found = await self._rooms.memory.raw([one for one in frontier if one not in raws])
            found |= {one: raws[one] for one in frontier if one in raws}
            chain |= found
            frontier = await asyncio.to_thread(_cited, found, version) - chain.keys()
        return list(chain.values())


def _resident(room: Room | None, server_name: ServerName) -> Room:
    if room is None or server_name not in room.view.servers:
        raise MatrixError(404, "M_NOT_FOUND", "no user of this server is in the room")
    return room


def _cited(raws: Mapping[EventId, bytes], version: RoomVersion) -> set[EventId]:
    return {auth for raw in raws.values() for auth in load_auth_events(raw, version)}
