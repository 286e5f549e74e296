"""Makes events as a liar likes them: signed by its own key, on any parent, citing anything."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from federation.events import hashes
from federation.events.canonical_json import JsonObject
from federation.events.event import Event, load_event
from federation.events.ids import EventId, StateKey, UserId
from federation.graph.auth.auth_rules import auth_event_keys
from federation.graph.building import Edges, EventDraft, build_event
from homeserver.storage.timeline.events import StoredVerdict
from tests.simulation.disks import Stored, current_state, read_room, snapshot_state
from tests.simulation.oracle import StateIds
from tests.simulation.server import SimulatedServer
from tests.simulation.world import PlayedRoom, World


class Forger:
    """A liar's pen."""

    def __init__(self, world: World, server: SimulatedServer) -> None:
        self._world, self._server, self._rng = world, server, world.rng
        self._made: dict[EventId, Event] = {}

    def placed(self, room: PlayedRoom) -> list[Stored]:
        """The liar's events of a room, the newest last."""
        stored = read_room(self._server.disk.tables, room).values()
        placed = [
            one
            for one in stored
            if one.row["gap_index"] == 0 and one.row["verdict"] == StoredVerdict.ACCEPTED
        ]
        return sorted(placed, key=lambda one: int(one.row["live_index"]))

    def state_after(self, room: PlayedRoom, one: Stored) -> StateIds:
        return snapshot_state(
            self._server.disk.tables, one.row["room_row_id"], one.row["snapshot_after"]
        )

    def message(self, body: str) -> EventDraft:
        sender = self._rng.choice(self._world.users_of(self._server))
        return EventDraft("m.room.message", sender, {"msgtype": "m.text", "body": body})

    def member(self, room: PlayedRoom) -> UserId:
        """A user of the liar's who is in the room, if any is."""
        state, users = self._current(room), self._world.users_of(self._server)
        events = self._server.disk.tables.events
        joined = [
            user
            for user in users
            if (event_id := state.get(("m.room.member", user))) is not None
            and events[event_id]["membership"] == "join"
        ]
        return self._rng.choice(joined or users)

    def _current(self, room: PlayedRoom) -> StateIds:
        return current_state(self._server.disk.tables, room.room_id)

    def grab(self, room: PlayedRoom, sender: UserId | None = None) -> EventDraft:
        """A reach for power."""
        sender = sender or self._rng.choice(self._world.users_of(self._server))
        levels: JsonObject = {"users": {sender: 75}}
        victim = self._rng.choice([room.creator, self._victim()])
        return self._rng.choice(
            [
                EventDraft("m.room.power_levels", sender, levels, ""),
                EventDraft("m.room.member", sender, {"membership": "ban"}, victim),
                EventDraft("m.room.member", sender, {"membership": "leave"}, victim),
            ]
        )

    def _victim(self) -> UserId:
        return self._rng.choice(self._world.users_of(self._rng.choice(self._world.servers)))

    def anything(self, room: PlayedRoom, sender: UserId | None = None) -> EventDraft:
        """Whatever comes to mind; by a random user of the liar's if none is given."""
        sender = sender or self._rng.choice(self._world.users_of(self._server))
        body = str(self._rng.random())
        joined = {"membership": "join", "displayname": body}
        return self._rng.choice(
            [
                EventDraft("m.room.message", sender, {"msgtype": "m.text", "body": body}),
                self.grab(room, sender),
                self._levels(room, sender),
                EventDraft("m.room.member", sender, joined, sender),
                EventDraft("m.room.member", sender, {"membership": "leave"}, sender),
                EventDraft("m.room.join_rules", sender, {"join_rule": "public"}, ""),
                EventDraft("m.room.name", sender, {"name": body}, ""),
            ]
        )

    def _levels(self, room: PlayedRoom, sender: UserId) -> EventDraft:
        """The power levels as they are, said again, or with one level less."""
        tables = self._server.disk.tables
        event_id = self._current(room).get(("m.room.power_levels", ""))
        if event_id is None:
            return self.message("no levels")
        raw = tables.events[event_id]["json"]
        content = dict(load_event(raw, room.version, event_id).content)
        users = {**content.get("users", {})}
        if users and self._rng.random() < 0.5:
            users[self._rng.choice(sorted(users))] = 0
        return EventDraft("m.room.power_levels", sender, {**content, "users": users}, "")

    def on(self, room: PlayedRoom, parent: Stored, draft: EventDraft) -> Event:
        """An event on top of another, citing as it should, or what once was."""
        state = dict(self.state_after(room, parent))
        if self._rng.random() < 0.3:
            for one in self.placed(room):
                if one.event.is_state and self._rng.random() < 0.3:
                    state[one.event.key] = one.event.event_id
        return self.on_parent(room, parent.event, draft, state)

    def on_parent(
        self,
        room: PlayedRoom,
        parent: Event,
        draft: EventDraft,
        state: StateIds,
        *,
        more: Sequence[Event] = (),
    ) -> Event:
        keys: tuple[StateKey, ...] = auth_event_keys(
            draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
            version=room.version,
        )
        made = {parent.event_id: parent, **self._made, **{one.event_id: one for one in more}}
        event = build_event(
            draft,
            version=room.version,
            room_id=room.room_id,
            edges=Edges(
                list(dict.fromkeys([parent.event_id, *(one.event_id for one in more)])),
                [state[key] for key in keys if key in state],
                max(one.depth for one in (parent, *more)) + 1,
                lambda event_id: made.get(event_id) or self._stored(room, event_id),
            ),
            now_ms=self._server.clock.now_ms() - self._rng.choice([0, 0, 60_000]),
            server_name=self._server.name,
            key=self._server.key,
        )
        self._made[event.event_id] = event
        return event

    def _stored(self, room: PlayedRoom, event_id: EventId) -> Event:
        return load_event(self._server.disk.tables.events[event_id]["json"], room.version, event_id)

    def signed(self, room: PlayedRoom, pdu: JsonObject) -> JsonObject:
        """A PDU with its hash and signature made anew, its ID (where it has one) kept."""
        left_out = ("signatures", "hashes")
        fields = {name: value for name, value in pdu.items() if name not in left_out}
        fields["hashes"] = {"sha256": hashes.content_hash(fields, room.version)}
        payload, key = hashes.reference_payload(fields, room.version), self._server.key
        fields["signatures"] = {self._server.name: {key.key_id: key.sign(payload)}}
        return fields

    def fork(self, room: PlayedRoom, base: Stored, length: int) -> list[Event]:
        """State events, one after the other, each allowed where it stands if its sender had the
        right to it there."""
        state, parent, events = dict(self.state_after(room, base)), base.event, list[Event]()
        for _ in range(length):
            event = self.on_parent(room, parent, self.anything(room), state)
            if event.is_state:
                state[event.key] = event.event_id
            events.append(event)
            parent = event
        return events


def pdu_of(event: Event) -> JsonObject:
    """An event as JSON."""
    pdu: JsonObject = orjson.loads(event.raw)
    return pdu
