"""Rooms in memory: EventStore and RoomWriter for tests, written from the ports alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from federation.errors import MatrixError
from federation.events import canonical_json, event_types
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId, server_of
from federation.events.redaction import redact_event
from federation.events.room_versions import RoomVersion, room_version
from federation.events.signing import SigningKey
from federation.graph.admission import Accepted, Rejected, SoftFailed, settle
from federation.graph.auth.auth_rules import AuthState, auth_event_keys, check_auth, create_event_id
from federation.graph.building import Edges, EventDraft, build_event
from federation.graph.policy_servers import (
    NotRecommended,
    PolicyServer,
    check_policy,
    policy_server_of,
)
from federation.graph.resolution.state_resolution import resolve
from federation.ports import (
    Clock,
    JoinedRoom,
    PolicyServerChanged,
    ResidentAnswer,
    StoredEvent,
    Template,
)

Final = Accepted | SoftFailed | Rejected
State = Mapping[StateKey, EventId]


class MemoryRooms:
    """All rooms of one server."""

    def __init__(self, name: ServerName, key: SigningKey, clock: Clock) -> None:
        self.first_depths: dict[RoomId, int] = {}
        self.name, self.key, self.clock = name, key, clock
        self.events: dict[EventId, StoredEvent] = {}
        self.before: dict[EventId, State] = {}
        self.versions: dict[RoomId, RoomVersion] = {}
        self.head_ids: dict[RoomId, list[EventId]] = {}
        self.on_anothers_word: list[EventId] = []
        self.verdicts: dict[EventId, Final] = {}
        self.hidden: set[EventId] = set()
        self.unauthorised: MatrixError | None = None

    # --- making rooms -----------------------------------------------------------------------------

    def create_room(
        self, creator: UserId, version_name: str = "10", join_rule: str = "public"
    ) -> RoomId:
        """Returns a room with its creator joined."""
        version = room_version(version_name)
        room = (
            None if version.room_id_is_create_hash else RoomId(f"!{len(self.events)}:{self.name}")
        )
        content: JsonObject = {"room_version": version_name}
        if version.creator_in_content:
            content["creator"] = creator
        create = self._build(
            EventDraft("m.room.create", creator, content, ""), version, room, {}, []
        )
        room_id = create.room_id
        self.versions[room_id] = version
        self._place(create, {}, Accepted())
        levels: JsonObject = {} if version.creators_are_privileged else {"users": {creator: 100}}
        self.send(room_id, creator, "m.room.member", {"membership": "join"}, state_key=creator)
        self.send(room_id, creator, "m.room.power_levels", levels, state_key="")
        self.send(room_id, creator, "m.room.join_rules", {"join_rule": join_rule}, state_key="")
        return room_id

    def send(
        self,
        room_id: RoomId,
        sender: UserId,
        event_type: str,
        content: JsonObject,
        *,
        state_key: str | None = None,
    ) -> Event:
        """Returns an event of ours, allowed or not, on all heads."""
        event = self.build(room_id, EventDraft(event_type, sender, content, state_key))
        self._place(event, self._merged(self.head_ids[room_id]), Accepted())
        return event

    def build(
        self, room_id: RoomId, draft: EventDraft, prev: Sequence[EventId] | None = None
    ) -> Event:
        """As `send`, without keeping it."""
        prev = self.head_ids[room_id] if prev is None else prev
        return self._build(draft, self.versions[room_id], room_id, self._merged(prev), prev)

    def _build(
        self,
        draft: EventDraft,
        version: RoomVersion,
        room_id: RoomId | None,
        state: State,
        prev: Sequence[EventId],
    ) -> Event:
        return build_event(
            draft,
            version=version,
            room_id=room_id,
            edges=Edges(
                prev,
                self._selected(draft, version, state),
                1 + max((self.events[one].event.depth for one in prev), default=0),
                lambda one: self.events[one].event,
            ),
            now_ms=self.clock.now_ms(),
            server_name=self.name,
            key=self.key,
        )

    def _selected(self, draft: EventDraft, version: RoomVersion, state: State) -> list[EventId]:
        keys = auth_event_keys(
            draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
            version=version,
        )
        return [state[key] for key in keys if key in state]

    # --- EventStore -------------------------------------------------------------------------------

    async def room_version(self, room_id: RoomId) -> RoomVersion | None:
        return self.versions.get(room_id)

    async def load_events(self, event_ids: Collection[EventId]) -> dict[EventId, StoredEvent]:
        return {one: self.events[one] for one in event_ids if one in self.events}

    async def heads(self, room_id: RoomId) -> tuple[EventId, ...]:
        return tuple(self.head_ids.get(room_id, ()))

    async def state_ids_before(self, event_id: EventId) -> State | None:
        return self.before.get(event_id)

    async def state_before(self, event: Event) -> AuthState | None:
        if any(one not in self.before for one in event.prev_events):
            return None
        return self._auth_state(event.version, self._merged(event.prev_events))

    async def first_depth(self, room_id: RoomId) -> int:
        return self.first_depths.get(room_id, 0)

    async def current_state_ids(self, room_id: RoomId) -> State:
        return self._merged(self.head_ids.get(room_id, ()))

    async def auth_chain(self, event_ids: Collection[EventId]) -> dict[EventId, Event]:
        found: dict[EventId, Event] = {}
        work = [auth for one in event_ids for auth in self.events[one].event.auth_events]
        while work:
            one = work.pop()
            if one not in found and one in self.events:
                found[one] = self.events[one].event
                work.extend(found[one].auth_events)
        for event in [self.events[one].event for one in event_ids][:1]:
            create = create_event_id(event.room_id, event.version)
            if create is not None and set(event_ids) != {create}:
                found[create] = self.events[create].event
        return found

    async def backfill(
        self, room_id: RoomId, event_ids: Collection[EventId], limit: int
    ) -> list[Event]:
        return self._walk(event_ids, set(), limit)

    async def missing_events(
        self,
        room_id: RoomId,
        *,
        earliest: Collection[EventId],
        latest: Collection[EventId],
        limit: int,
        min_depth: int,
    ) -> list[Event]:
        starts = {p for one in latest for p in self.events[one].event.prev_events} - set(earliest)
        return self._walk(starts, set(earliest), limit)[::-1]

    def _walk(self, starts: Collection[EventId], stop: set[EventId], limit: int) -> list[Event]:
        found: dict[EventId, Event] = {}
        work = list(starts)
        while work and len(found) < limit:
            one = work.pop(0)
            if one in found or one in stop or one not in self.before:
                continue
            found[one] = self.events[one].event
            work.extend(found[one].prev_events)
        return list(found.values())

    async def is_server_joined(self, room_id: RoomId, server: ServerName) -> bool:
        return server in await self.joined_servers(room_id)

    async def joined_at(
        self, room_id: RoomId, server: ServerName, event_ids: Collection[EventId]
    ) -> frozenset[EventId]:
        return frozenset(
            one
            for one in event_ids
            if one in self.before
            and self.events[one].event.room_id == room_id
            and server in self._servers_in(self.before[one]) | self._servers_in(self._after(one))
        )

    async def joined_servers(self, room_id: RoomId) -> frozenset[ServerName]:
        return self._servers_in(self._merged(self.head_ids.get(room_id, ())))

    def _servers_in(self, state: State) -> frozenset[ServerName]:
        return frozenset(
            server_of(UserId(key[1]))
            for key, one in state.items()
            if key[0] == "m.room.member" and self.events[one].event.membership == "join"
        )

    async def policy_server(self, room_id: RoomId) -> PolicyServer | None:
        state = self._merged(self.head_ids.get(room_id, ()))
        found = {
            key: self.events[one].event
            for key, one in state.items()
            if key == event_types.POLICY_KEY
        }
        return policy_server_of(found.get, await self.joined_servers(room_id))

    async def visible_to_server(
        self, server: ServerName, events: Sequence[Event]
    ) -> dict[EventId, Event]:
        if server not in await self.joined_servers(events[0].room_id):
            ids = [one.event_id for one in events]
            here = await self.joined_at(events[0].room_id, server, ids)
            return {one.event_id: one for one in events if one.event_id in here - self.hidden}
        return {
            one.event_id: redact_event(one) if one.event_id in self.hidden else one
            for one in events
        }

    # --- RoomWriter -------------------------------------------------------------------------------

    async def accept(
        self, event: Event, verdict: Final, *, asked: PolicyServer | None = None
    ) -> Final:
        assert all(one in self.before for one in event.prev_events), "parents must be known"
        return await self._accept(event, verdict, self._merged(event.prev_events), asked)

    async def accept_with_state(
        self,
        event: Event,
        verdict: Final,
        state_before: State,
        *,
        asked: PolicyServer | None = None,
    ) -> Final:
        assert all(one in self.events for one in state_before.values()), "its events are stored"
        verdict = await self._accept(event, verdict, state_before, asked)
        self.on_anothers_word.append(event.event_id)
        return verdict

    async def _accept(
        self, event: Event, verdict: Final, before: State, asked: PolicyServer | None
    ) -> Final:
        if event.event_id in self.before:
            return self.verdicts[event.event_id]
        if isinstance(verdict, Accepted):
            policy = await self.policy_server(event.room_id)
            current = self._merged(self.head_ids[event.room_id])
            verdict = settle(event, self._auth_state(event.version, current), policy=policy)
            if (
                policy != asked
                and isinstance(verdict, SoftFailed)
                and isinstance(verdict.failure, NotRecommended)
            ):
                raise PolicyServerChanged
        self._place(event, before, verdict)
        return verdict

    async def store_outliers(self, events: Sequence[Event], rejected: Collection[EventId]) -> None:
        for one in events:
            known = StoredEvent(one, rejected=one.event_id in rejected, outlier=True)
            self.events.setdefault(one.event_id, known)

    async def store_backfill(
        self,
        events: Sequence[Event],
        states: Mapping[EventId, State],
        rejected: Collection[EventId] = frozenset(),
    ) -> None:
        state: dict[StateKey, EventId] = {}
        for one in events:
            state = dict(states.get(one.event_id, state))
            self.events[one.event_id] = StoredEvent(one, rejected=one.event_id in rejected)
            self.before[one.event_id] = dict(state)
            if one.is_state:
                state[one.key] = one.event_id

    async def import_join(self, joined: JoinedRoom) -> None:
        self.versions[joined.room_id] = joined.version
        await self.store_outliers([*joined.auth_chain, *joined.state], joined.rejected)
        self._place(joined.event, {one.key: one.event_id for one in joined.state}, Accepted())

    async def template(self, draft: EventDraft, room_id: RoomId) -> Template:
        event = self.build(room_id, draft)
        state = self._auth_state(event.version, self._merged(event.prev_events))
        failure = check_auth(event, state)
        if failure is not None:
            raise MatrixError(403, "M_FORBIDDEN", failure.detail)
        pdu = canonical_json.decode(event.raw)
        kept = {k: v for k, v in pdu.items() if k not in ("hashes", "signatures")}
        return Template(event.version, {**kept, "origin": self.name})

    async def authorise_join(self, event: Event) -> None:
        if self.unauthorised is not None:
            raise self.unauthorised

    async def accept_membership(
        self, event: Event, *, asked: PolicyServer | None = None
    ) -> ResidentAnswer:
        before = self._merged(event.prev_events)
        failure = check_auth(event, self._auth_state(event.version, before))
        if failure is not None:
            raise MatrixError(403, "M_FORBIDDEN", failure.detail)
        policy = await self.policy_server(event.room_id)
        if check_policy(event, policy) is not None and policy != asked:
            raise PolicyServerChanged
        servers = sorted(await self.joined_servers(event.room_id))
        self._place(event, before, Accepted())
        chain = await self.auth_chain([event.event_id, *before.values()])
        return ResidentAnswer(
            event.raw,
            [self.events[one].event.raw for one in before.values()],
            [one.raw for one in chain.values()],
            servers,
        )

    # --- state ------------------------------------------------------------------------------------

    def _place(self, event: Event, before: State, verdict: Final) -> None:
        known = StoredEvent(event)
        known = replace(known, rejected=isinstance(verdict, Rejected))
        known = replace(known, soft_failed=isinstance(verdict, SoftFailed))
        self.events[event.event_id] = known
        self.before[event.event_id] = before
        self.verdicts[event.event_id] = verdict
        if isinstance(verdict, Accepted):
            heads = self.head_ids.get(event.room_id, [])
            kept = [one for one in heads if one not in event.prev_events]
            self.head_ids[event.room_id] = [*kept, event.event_id]

    def _after(self, event_id: EventId) -> State:
        known = self.events[event_id]
        before = self.before[event_id]
        if known.rejected or not known.event.is_state:
            return before
        return {**before, known.event.key: event_id}

    def _merged(self, event_ids: Collection[EventId]) -> State:
        if not event_ids:
            return {}
        version = self.events[next(iter(event_ids))].event.version
        return resolve(
            version,
            [self._after(one) for one in event_ids],
            event=lambda one: self.events[one].event,
            is_rejected=lambda one: self.events[one].rejected,
        )

    def _auth_state(self, version: RoomVersion, state: State) -> AuthState:
        events = {key: self.events[one].event for key, one in state.items()}
        return AuthState(version, events.get)
