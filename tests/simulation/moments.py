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
from typing import Any

from federation.events.ids import EventId, StateKey, server_of
from homeserver.storage.text import unescape
from tests.simulation.disks import RoomDisks, Stored, difference, room_nid, snapshot_state
from tests.simulation.memory_tables import Tables
from tests.simulation.server import SimulatedServer

Found = Callable[[str], None]


def check_moments(server: SimulatedServer, disks: RoomDisks, found: Found) -> None:
    """Checks one room's log on one server."""
    tables = server.disk.tables
    nid = room_nid(tables, disks.room.room_id)
    heads = None if nid is None else tables.heads.get(nid)
    if nid is None or heads is None:
        return
    live = sorted(
        (one for one in disks.of[server.name].values() if one.row["fill"] == 0),
        key=lambda one: int(one.row["n"]),
    )
    _check_places(server, nid, live, found)
    if not live:
        return
    state = dict(snapshot_state(tables, nid, live[0].row["snapshot_before"]))
    changes = _changes(tables, nid)
    for one in live:
        while changes and changes[0]["position"] < one.row["position"]:
            _apply(state, changes.pop(0))
        _check_shown(server, one, state, disks, found)
    for change in changes:
        _apply(state, change)
    stored = snapshot_state(tables, nid, heads["snapshot_nid"])
    if state != stored:
        found(f"{server.name}: the log leads to another state: {difference(state, stored)}")


def _changes(tables: Tables, nid: int) -> list[dict[str, Any]]:
    rows = [row for key, row in tables.changes.items() if key[0] == nid]
    return sorted(rows, key=lambda row: int(row["position"]))


def _apply(state: dict[StateKey, EventId], change: dict[str, Any]) -> None:
    key = unescape(change["type"]), unescape(change["state_key"])
    if change["event_id"] is None:
        state.pop(key, None)
    else:
        state[key] = change["event_id"]


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


def _check_places(server: SimulatedServer, nid: int, live: list[Stored], found: Found) -> None:
    tables = server.disk.tables
    up_to = tables.heads[nid]["n"]
    lost = [n for room_nid, n in tables.places_lost if room_nid == nid]
    positions = [one.row["position"] for one in live]
    places = sorted([one.row["n"] for one in live] + lost)
    if len(set(places)) < len(places) or positions != sorted(set(positions)):
        found(f"{server.name} has a place twice, or positions out of order")
    if places and (places[-1] != up_to or len(places) != places[-1] - places[0] + 1):
        found(f"{server.name} has {len(live)} events, {len(lost)} lost, up to place {up_to}")
    if positions and positions[-1] > tables.position:
        found(f"{server.name} has an event behind its log's end")
