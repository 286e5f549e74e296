"""What was when, by a server's log: the changes of current state, and events between them.

1. The changes, one after the other, lead to the current state that is stored: this is what clients
   follow.
2. An event of another server that was shown was allowed by the current state of its moment: one
   that isn't is soft-failed (spec: server-server API, "Soft failure").
3. Each place and each position is given once, and the last one is the room's. Only an event that
   was rejected after all has lost its place (`engine.history.corrections`, 3), which nothing gets
   again; where it is allowed in the end, it has a new one.
"""

from __future__ import annotations

from collections.abc import Callable

from federation.events.ids import EventId, StateKey, server_of
from homeserver.storage.rooms.state_changes import StateChangeRow
from homeserver.storage.text import unescape
from tests.simulation.disks import RoomDisks, Stored, difference, room_row_id, snapshot_state
from tests.simulation.memory_tables import Tables
from tests.simulation.server import SimulatedServer

Found = Callable[[str], None]


def check_moments(server: SimulatedServer, disks: RoomDisks, found: Found) -> None:
    """Checks one room's log on one server."""
    tables = server.disk.tables
    row_id = room_row_id(tables, disks.room.room_id)
    heads = None if row_id is None else tables.heads.get(row_id)
    if row_id is None or heads is None:
        return
    live = sorted(
        (one for one in disks.of[server.name].values() if one.row["gap_index"] == 0),
        key=lambda one: int(one.row["live_index"]),
    )
    _check_places(server, row_id, live, found)
    if not live:
        return
    state = dict(snapshot_state(tables, row_id, live[0].row["snapshot_before"]))
    changes = _changes(tables, row_id)
    for one in live:
        while changes and changes[0].position < one.row["position"]:
            _apply(state, changes.pop(0))
        _check_shown(server, one, state, disks, found)
    for change in changes:
        _apply(state, change)
    stored = snapshot_state(tables, row_id, heads["snapshot_row_id"])
    if state != stored:
        found(f"{server.name}: the log leads to another state: {difference(state, stored)}")


def _changes(tables: Tables, row_id: int) -> list[StateChangeRow]:
    rows = [row for key, row in tables.changes.items() if key[0] == row_id]
    return sorted(rows, key=lambda row: row.position)


def _apply(state: dict[StateKey, EventId], change: StateChangeRow) -> None:
    key = unescape(change.type), unescape(change.state_key)
    if change.event_id is None:
        state.pop(key, None)
    else:
        state[key] = change.event_id


def _check_shown(
    server: SimulatedServer,
    one: Stored,
    state: dict[StateKey, EventId],
    disks: RoomDisks,
    found: Found,
) -> None:
    event = one.event
    if server_of(event.sender) == server.name or event.type == "m.room.create":
        return
    reason = disks.oracle.refusal_by(event, state)
    if reason is not None:
        found(f"{server.name} shows {event.event_id}, which its state then refused: {reason}")


def _check_places(server: SimulatedServer, row_id: int, live: list[Stored], found: Found) -> None:
    tables = server.disk.tables
    up_to = tables.heads[row_id]["live_index"]
    lost = [n for room_row_id, n in tables.places_lost if room_row_id == row_id]
    positions = [one.row["position"] for one in live]
    places = sorted([one.row["live_index"] for one in live] + lost)
    if len(set(places)) < len(places) or positions != sorted(set(positions)):
        found(f"{server.name} has a place twice, or positions out of order")
    if places and (places[-1] != up_to or len(places) != places[-1] - places[0] + 1):
        found(f"{server.name} has {len(live)} events, {len(lost)} lost, up to place {up_to}")
    if positions and positions[-1] > tables.position:
        found(f"{server.name} has an event behind its log's end")
