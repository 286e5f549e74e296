"""Builds rooms for tests: signed events with the auth events that the state gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, StateKey, UserId, server_of
from federation.events.room_versions import SUPPORTED, RoomVersion, room_version
from federation.events.signing import SigningKey
from federation.graph.auth.auth_rules import AuthState, auth_event_keys
from federation.graph.building import Edges, EventDraft, build_event
from federation.graph.resolution.chains import LoadEvent, MissingEvent

ALICE, BOB, CAROL, DAVE, EVE = (
    UserId(f"@{name}:{server}")
    for name, server in [("alice", "a"), ("bob", "b"), ("carol", "c"), ("dave", "d"), ("eve", "e")]
)
KEY = SigningKey.generate(b"\7" * 32, "k")
SUPPORTED_NAMES = tuple(SUPPORTED)

State = Mapping[StateKey, Event]


def event_of(
    version: RoomVersion,
    room_id: RoomId | None,
    draft: EventDraft,
    *,
    prev: Iterable[Event] = (),
    auth: Iterable[Event] = (),
    depth: int = 1,
) -> Event:
    """Returns an event signed by its sender's server, with exactly these edges."""
    prev, auth = list(prev), list(auth)
    cited = {event.event_id: event for event in (*prev, *auth)}
    return build_event(
        draft,
        version=version,
        room_id=room_id,
        edges=Edges(
            [event.event_id for event in prev],
            [event.event_id for event in auth],
            depth,
            cited.__getitem__,
        ),
        now_ms=1_000,
        server_name=server_of(draft.sender),
        key=KEY,
    )


class Room:
    """A room of one version: every event made in it, and the state after its last one."""

    def __init__(
        self,
        name: str = "11",
        *,
        creator: UserId = ALICE,
        create: Mapping[str, Any] | None = None,
    ) -> None:
        self.version = room_version(name)
        self.events: dict[EventId, Event] = {}
        self.state: dict[StateKey, Event] = {}
        self.clock = 0
        self.room_id: RoomId | None = None
        content: dict[str, Any] = {"room_version": name, **(create or {})}
        if self.version.creator_in_content:
            content.setdefault("creator", creator)
        if not self.version.room_id_is_create_hash:
            self.room_id = RoomId(f"!room:{server_of(creator)}")
        self.create = self.send("m.room.create", creator, content, "")
        self.room_id = self.create.room_id
        self.last = self.create

    @property
    def create_room_id(self) -> RoomId:
        """The room ID, once there is a create event."""
        assert self.room_id is not None
        return self.room_id

    def auth_for(self, draft: EventDraft, state: State) -> list[Event]:
        """Returns what the selection algorithm picks of `state`."""
        keys = auth_event_keys(
            draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
            version=self.version,
        )
        return [state[key] for key in keys if key in state]

    def send(
        self,
        event_type: str,
        sender: UserId,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        state: State | None = None,
        auth: Sequence[Event] | None = None,
        prev: Sequence[Event] | None = None,
        ts: int | None = None,
        depth: int | None = None,
        keep: bool = True,
    ) -> Event:
        """Makes an event on top of the last one (or of `prev`), authorised by the state (or by
        `state`, or citing exactly `auth`); with `keep`, it becomes the last and enters the state.
        """
        self.clock += 1
        draft = EventDraft(
            event_type,
            sender,
            dict(content),
            state_key,
            origin_server_ts=self.clock if ts is None else ts,
        )
        if auth is None:
            auth = self.auth_for(draft, self.state if state is None else state)
        if prev is None:
            prev = [] if event_type == "m.room.create" else [self.last]
        event = event_of(
            self.version, self.room_id, draft, prev=prev, auth=auth, depth=depth or self.clock
        )
        self.events[event.event_id] = event
        if keep:
            self.last = event
            if event.is_state:
                self.state[event.key] = event
        return event

    def member(self, sender: UserId, membership: str, target: str = "", **options: Any) -> Event:
        """Returns a member event; `extra` joins the content."""
        content = {"membership": membership, **options.pop("extra", {})}
        return self.send("m.room.member", sender, content, target or sender, **options)

    def levels(self, sender: UserId, users: Mapping[str, int], **options: Any) -> Event:
        """Returns a power levels event; `extra` joins the content."""
        content = {"users": dict(users), **options.pop("extra", {})}
        return self.send("m.room.power_levels", sender, content, "", **options)

    def join_rule(self, sender: UserId, rule: str, **options: Any) -> Event:
        """Returns a join rules event."""
        return self.send("m.room.join_rules", sender, {"join_rule": rule}, "", **options)

    def open_to(self, *users: UserId, levels: Mapping[str, int] | None = None) -> Room:
        """Returns the usual start: the creator joins, power levels, a public join rule, others
        join."""
        creator = self.create.sender
        self.member(creator, "join")
        given: dict[str, int] = {creator: 100}
        if self.version.creators_are_privileged:
            given = {}
        self.levels(creator, {**given, **(levels or {})})
        self.join_rule(creator, "public")
        for user in users:
            self.member(user, "join")
        return self

    def auth_state(self, changes: Iterable[Event] = ()) -> AuthState:
        """Returns the state after the last event, with some entries replaced."""
        state = {**self.state, **{event.key: event for event in changes}}
        return AuthState(self.version, state.get)

    def without(self, *keys: StateKey) -> AuthState:
        """Returns the state after the last event, with some entries missing."""
        state = {key: event for key, event in self.state.items() if key not in keys}
        return AuthState(self.version, state.get)

    def loader(self) -> LoadEvent:
        """Loads this room's events."""

        def load(event_id: EventId) -> Event:
            found = self.events.get(event_id)
            if found is None:
                raise MissingEvent(event_id)
            return found

        return load


def ids_of(state: State) -> dict[StateKey, EventId]:
    """Returns a state as IDs."""
    return {key: event.event_id for key, event in state.items()}
