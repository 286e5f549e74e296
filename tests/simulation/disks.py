"""What servers have of a room, read from their disks without the code under test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation.events.event import Event, load_event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, server_of
from homeserver.storage.text import unescape
from tests.simulation.memory_tables import Tables
from tests.simulation.oracle import GraphOracle, StateIds
from tests.simulation.world import PlayedRoom, World


@dataclass(frozen=True)
class Stored:
    """One event on one server's disk."""

    event: Event
    row: Mapping[str, Any]

    @property
    def is_placed(self) -> bool:
        """Has it a place in the graph?"""
        return not self.row["outlier"]


class RoomDisks:
    """What all servers have of a room, and what it means."""

    def __init__(self, world: World, room: PlayedRoom) -> None:
        self.world, self.room = world, room
        self.of: dict[ServerName, dict[EventId, Stored]] = {}
        self.events: dict[EventId, Event] = {}
        for server in world.servers:
            stored = read_room(server.disk.tables, room)
            self.of[server.name] = stored
            for event_id, one in stored.items():
                if event_id not in self.events or one.row["redacted_by"] is None:
                    self.events[event_id] = one.event
        self.oracle = GraphOracle(room.version, self.events, world.signers)

    def complete(self, name: ServerName) -> set[EventId]:
        """The events of a server that have a place there, as have all that they rest on: their
        ancestors, and what they and these cite."""
        stored = self.of[name]
        before, found = set[EventId](), {one for one in stored if stored[one].is_placed}
        while found != before:
            before, found = found, set()
            for event in self.oracle.order:
                is_left = event.event_id in before and before.issuperset(event.auth_events)
                if is_left and found.issuperset(event.prev_events):
                    found.add(event.event_id)
        return found


def read_room(tables: Tables, room: PlayedRoom) -> dict[EventId, Stored]:
    """All events of a room."""
    row_id = room_row_id(tables, room.room_id)
    return {
        EventId(event_id): Stored(load_event(row["json"], room.version, EventId(event_id)), row)
        for event_id, row in tables.events.items()
        if row["room_row_id"] == row_id
    }


def room_row_id(tables: Tables, room_id: RoomId) -> int | None:
    """The number of a room; None where it isn't known."""
    room = tables.rooms.get(room_id)
    return None if room is None else room["room_row_id"]


def snapshot_state(tables: Tables, row_id: int, snapshot: int) -> StateIds:
    """A stored snapshot as event IDs."""
    links = []
    next_row_id: int | None = snapshot
    while next_row_id is not None:
        link = tables.snapshots[row_id, next_row_id]
        links.append(link)
        next_row_id = link["base_row_id"]
    state: dict[StateKey, EventId] = {}
    for link in reversed(links):
        for number in link["removed"]:
            state.pop(_key(tables.by_row_id[row_id, number]), None)
        for number in link["added"]:
            row = tables.by_row_id[row_id, number]
            state[_key(row)] = row["event_id"]
    return state


def current_state(tables: Tables, room_id: RoomId) -> StateIds:
    """The current state of a room, as stored; empty where the server was never in it."""
    row_id = room_row_id(tables, room_id)
    heads = None if row_id is None else tables.heads.get(row_id)
    return (
        {}
        if row_id is None or heads is None
        else snapshot_state(tables, row_id, heads["snapshot_row_id"])
    )


def _key(row: Mapping[str, Any]) -> StateKey:
    return unescape(row["type"]), unescape(row["state_key"])


def joined_servers(disks: RoomDisks, state: StateIds) -> set[ServerName]:
    """The servers with a joined user in a state."""
    return {
        server_of(key)
        for (kind, key), event_id in state.items()
        if kind == "m.room.member" and disks.events[event_id].membership == "join"
    }


def difference(one: StateIds, other: StateIds) -> dict[StateKey, tuple[str | None, str | None]]:
    """Where two states differ."""
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    }
