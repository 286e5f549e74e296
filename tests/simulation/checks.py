"""What must hold of a world, checked from its disks and from what clients were told.

1. What a client was told is on its server's disk, and, if it is calm, on those of all servers that
   were in the room all the time.
2. Every event that has a place was signed by its sender's server; it is rejected where the oracle
   rejects it, and nowhere else; the state before it is the oracle's, whatever the order of arrival.
3. Once each server has sent one event that all received, all have the same heads and state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from federation.events.event import Event, load_event
from federation.events.ids import EventId, ServerName, StateKey, UserId, server_of
from federation.events.room_versions import room_version
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import SignatureInvalid
from federation.graph.building import EventDraft
from homeserver.storage.events import ACCEPTED, REJECTED
from homeserver.storage.text import unescape
from tests.simulation.memory_tables import Tables
from tests.simulation.oracle import GraphOracle, StateIds
from tests.simulation.server import SimulatedServer
from tests.simulation.world import World


@dataclass(frozen=True)
class Stored:
    """One event on one server's disk."""

    event: Event
    row: Mapping[str, Any]


class Disks:
    """What all servers have of the room."""

    def __init__(self, world: World) -> None:
        self.version = room_version(world.plan.version)
        self.of: dict[ServerName, dict[EventId, Stored]] = {}
        self.events: dict[EventId, Event] = {}
        for server in world.servers:
            stored = self._read(server.disk.tables, world)
            self.of[server.name] = stored
            for event_id, one in stored.items():
                if event_id not in self.events or one.row["redacted_by"] is None:
                    self.events[event_id] = one.event

    def _read(self, tables: Tables, world: World) -> dict[EventId, Stored]:
        room = tables.rooms.get(world.room_id)
        nid = None if room is None else room["room_nid"]
        return {
            EventId(event_id): Stored(load_event(row["json"], self.version, EventId(event_id)), row)
            for event_id, row in tables.events.items()
            if row["room_nid"] == nid
        }


def snapshot_state(tables: Tables, room_nid: int, snapshot: int) -> StateIds:
    """A stored snapshot as event IDs."""
    links = []
    nid: int | None = snapshot
    while nid is not None:
        link = tables.snapshots[room_nid, nid]
        links.append(link)
        nid = link["base_nid"]
    state: dict[StateKey, EventId] = {}
    for link in reversed(links):
        for number in link["removed"]:
            state.pop(_key(tables.by_nid[room_nid, number]), None)
        for number in link["added"]:
            row = tables.by_nid[room_nid, number]
            state[_key(row)] = row["event_id"]
    return state


def current_state(tables: Tables) -> StateIds:
    """The state of a server's only room, as stored; empty where it was never in it."""
    for room_nid, heads in tables.heads.items():
        return snapshot_state(tables, room_nid, heads["snapshot_nid"])
    return {}


def _key(row: Mapping[str, Any]) -> StateKey:
    return unescape(row["type"]), unescape(row["state_key"])


def joined_servers(disks: Disks, state: StateIds) -> set[ServerName]:
    """The servers with a joined user in a state."""
    return {
        server_of(key)
        for (kind, key), event_id in state.items()
        if kind == "m.room.member" and disks.events[event_id].membership == "join"
    }


class Checks:
    """The checks of one world; what is wrong goes to `world.found`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def look(self) -> tuple[Disks, GraphOracle]:
        """What is stored now, and what it means."""
        disks = Disks(self.world)
        return disks, GraphOracle(disks.version, disks.events)

    def check_disks(self) -> None:
        """Checks 1 and 2."""
        disks, oracle = self.look()
        self._check_told(disks, oracle)
        for server in self.world.servers:
            self._check_server(server, disks, oracle)

    # 1

    def _check_told(self, disks: Disks, oracle: GraphOracle) -> None:
        since = _descendants(disks.events, self._first_joins(disks).values())
        steady = self._steady(disks, oracle, since)
        for told in self.world.told:
            holders = {told.server}
            if told.event_id in since:
                holders |= steady
            for server in sorted(holders):
                stored = disks.of[server].get(told.event_id)
                is_own = server == told.server  # then it may be known from a join's state alone
                if stored is None or (stored.row["outlier"] and not is_own):
                    self.world.found(f"{server} lacks {told.event_id}, told by {told.server}")

    def _steady(self, disks: Disks, oracle: GraphOracle, since: set[EventId]) -> set[ServerName]:
        """The servers that had a joined user at every event since each server's first join."""
        steady = set(self._first_joins(disks)) & self._members(disks, oracle)
        for event_id in since:
            state = oracle.after(event_id)
            if state is not None:
                steady &= joined_servers(disks, state)
        return steady

    def _first_joins(self, disks: Disks) -> dict[ServerName, EventId]:
        first: dict[ServerName, Event] = {}
        for event in disks.events.values():
            server = server_of(event.sender)
            if event.membership == "join" and event.state_key == event.sender:
                known = first.setdefault(server, event)
                if event.depth < known.depth:
                    first[server] = event
        return {server: event.event_id for server, event in first.items()}

    # 2

    def _check_server(self, server: SimulatedServer, disks: Disks, oracle: GraphOracle) -> None:
        self._check_current(server, disks, oracle)
        states: dict[int, StateIds] = {}
        for event_id, stored in disks.of[server.name].items():
            self._check_signature(server, stored.event)
            row = stored.row
            before = oracle.before.get(event_id)
            if row["outlier"] or before is None:
                continue
            is_rejected = event_id in oracle.rejected
            if is_rejected != (row["verdict"] == REJECTED):
                reason = oracle.rejected.get(event_id, "")
                self.world.found(
                    f"{server.name} has {event_id} ({stored.event.type}) with verdict"
                    f" {row['verdict']} ({row['reason']}), the oracle says {reason or 'allowed'}"
                )
            snapshot = row["snapshot_before"]
            if snapshot not in states:
                try:
                    state = snapshot_state(server.disk.tables, row["room_nid"], snapshot)
                except KeyError as missing:
                    self.world.found(f"{server.name}: the snapshot {snapshot} needs {missing}")
                    continue
                states[snapshot] = state
            if states[snapshot] != before:
                self.world.found(
                    f"{server.name} has another state before {event_id} ({stored.event.type},"
                    f" unproven {row['unproven']}): {_difference(states[snapshot], before)}"
                )

    def _check_current(self, server: SimulatedServer, disks: Disks, oracle: GraphOracle) -> None:
        """The heads are the accepted events that no accepted one names as parent (since the last
        join through another server), and the current state is the oracle's over them."""
        tables = server.disk.tables
        for room_nid, row in tables.heads.items():
            heads = {tables.by_nid[room_nid, number]["event_id"] for number in row["heads"]}
            accepted = [
                one
                for one in disks.of[server.name].values()
                if one.row["n"] is not None and one.row["verdict"] == ACCEPTED
            ]
            parents = {parent for one in accepted for parent in one.event.prev_events}
            joins = [one.row["n"] for one in accepted if self._is_entry(server, one)]
            since = max(joins, default=0)
            leaves = {
                one.event.event_id: one.row["n"]
                for one in accepted
                if one.event.event_id not in parents
            }
            wanted = {event_id for event_id, n in leaves.items() if n >= since}
            if not wanted <= heads <= leaves.keys():
                self.world.found(
                    f"{server.name} has heads {sorted(heads)}, its graph {sorted(wanted)}"
                )
            states = [oracle.after(head) for head in sorted(heads)]
            known = [one for one in states if one is not None]
            state = snapshot_state(tables, room_nid, row["snapshot_nid"])
            if len(known) == len(states) and state != oracle.resolved(known):
                difference = _difference(state, oracle.resolved(known))
                self.world.found(f"{server.name} has another current state: {difference}")

    def _is_entry(self, server: SimulatedServer, one: Stored) -> bool:
        """Is it a join of the server's user through another server?"""
        is_own_join = one.event.membership == "join" and server_of(one.event.sender) == server.name
        return is_own_join and not one.row["to_federate"]  # that server has sent it to all

    def _check_signature(self, server: SimulatedServer, event: Event) -> None:
        sender = self.world.by_name(server_of(event.sender))
        made = signatures_of(event).get(sender.name, {})
        try:
            sender.key.verify_key.verify(signature_payload(event), made[sender.key.key_id])
        except (KeyError, SignatureInvalid):
            self.world.found(f"{server.name} has {event.event_id}, not signed by {sender.name}")

    # 3

    async def check_convergence(self) -> None:
        """Has each server send one event, then compares. Where an event was soft-failed somewhere,
        or more heads are open than one event names, it takes another round."""
        rounds = 3 + max(self._heads_count(server) for server in self.world.servers) // 9
        differences: list[str] = []
        for _ in range(rounds):
            for server in self.world.servers:
                await self._speak(server)
            differences = await self._differences()
            if not differences:
                return
        for difference in differences:
            self.world.found(difference)

    async def _differences(self) -> list[str]:
        members = self._members(*self.look())
        present = [
            server
            for server in self.world.servers
            if server.name in members and await self._speaker(server)
        ]
        views = [(server.name, await self._view(server)) for server in present]
        found = []
        for name, (heads, state) in views[1:]:
            first, (first_heads, first_state) = views[0]
            if state != first_state:
                found.append(
                    f"{name} and {first} have different states: {_difference(state, first_state)}"
                )
            if heads != first_heads:
                found.append(f"{name} has heads {heads}, {first} has {first_heads}")
        return found

    def _members(self, disks: Disks, oracle: GraphOracle) -> set[ServerName]:
        """The servers that are in the room by whatever anybody has last. One that was put out while
        it was away may not know it: nobody answers its questions any more, and each side
        soft-fails what the other sends."""
        parents = {parent for event in disks.events.values() for parent in event.prev_events}
        leaves = disks.events.keys() - parents - oracle.rejected.keys()
        states = [oracle.after(one) for one in sorted(leaves)]
        known = [one for one in states if one is not None]
        joined = [joined_servers(disks, one) for one in (*known, oracle.resolved(known))]
        for server in self.world.servers:
            own = joined_servers(disks, current_state(server.disk.tables))
            if server.name in own:
                joined.append(own)
            else:
                joined.append({one.name for one in self.world.servers if one is not server})
        return set.intersection(*joined)

    def _heads_count(self, server: SimulatedServer) -> int:
        tables = server.disk.tables
        return max((len(row["heads"]) for row in tables.heads.values()), default=1)

    async def _speaker(self, server: SimulatedServer) -> UserId | None:
        """A joined user of the server; one whom the other servers see as joined too, if any."""
        room = await self.world.room(server)
        joined: list[UserId] = []
        for user in self.world.users_of(server):
            ref = room.view.state.get(("m.room.member", user)) if room else None
            if ref is not None and ref.membership == "join":
                joined.append(user)
        tables = [one.disk.tables for one in self.world.servers]
        return max(
            joined, key=lambda user: sum(_is_joined(one, user) for one in tables), default=None
        )

    async def _speak(self, server: SimulatedServer) -> None:
        user = await self._speaker(server)
        if user is not None:
            content = {"msgtype": "m.text", "body": "the end"}
            await self.world.send(user, EventDraft("m.room.message", user, content))
            await self.world.settle()

    async def _view(self, server: SimulatedServer) -> tuple[list[EventId], StateIds]:
        room = await self.world.room(server)
        assert room is not None, "it has a joined user"
        state = {key: ref.event_id for key, ref in room.view.state.items()}
        return sorted(head.event_id for head in room.view.heads), state


def _is_joined(tables: Tables, user: UserId) -> bool:
    event_id = current_state(tables).get(("m.room.member", user))
    return event_id is not None and bool(tables.events[event_id]["membership"] == "join")


def _descendants(events: Mapping[EventId, Event], of_all: Iterable[EventId]) -> set[EventId]:
    """The events that have all of the given ones among their ancestors."""
    ancestors: dict[EventId, frozenset[EventId]] = {}
    wanted = frozenset(of_all)

    def seen(event_id: EventId) -> frozenset[EventId]:
        if event_id not in ancestors:
            ancestors[event_id] = frozenset()
            event = events.get(event_id)
            parents = event.prev_events if event else ()
            own = {event_id} & wanted
            ancestors[event_id] = frozenset(own).union(*(seen(parent) for parent in parents))
        return ancestors[event_id]

    ordered = sorted(events.values(), key=lambda one: one.depth)
    return {one.event_id for one in ordered if seen(one.event_id) >= wanted}


def _difference(one: StateIds, other: StateIds) -> dict[StateKey, tuple[str | None, str | None]]:
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    }
