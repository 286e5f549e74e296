"""What must hold of a world, checked from its disks and from what clients were told.

1. What a client was told is on its server's disk, and, if it is calm, on those of all servers that
   were in the room all the time. A server that was put out while it was cut off may not have got
   its last words through: it answers no questions about the room any more.
2. Every event that has a place was signed by its sender's server, and one ID is one event
   everywhere; it is rejected where the oracle rejects it, and nowhere else; the state before it is
   the oracle's, whatever the order of arrival. Heads are the graph's, current state is theirs.
3. What happened when: see `moments`. What became of contents: see `contents`.

Another server's word for a state may be wrong until the gap is closed: check 2 asks nothing of
events some of whose ancestors have no place on the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, server_of
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import SignatureInvalid
from homeserver.storage.timeline.events import StoredVerdict
from tests.simulation.contents import check_contents
from tests.simulation.disks import (
    RoomDisks,
    Stored,
    current_state,
    difference,
    joined_servers,
    room_row_id,
    snapshot_state,
)
from tests.simulation.memory_tables import Tables
from tests.simulation.moments import check_moments
from tests.simulation.oracle import StateIds
from tests.simulation.world import World

Found = Callable[[str], None]


class Checks:
    """The checks of one world; what is wrong goes to `world.found`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def check_disks(self) -> list[RoomDisks]:
        """Checks 1 to 3 of all rooms; returns what they looked at."""
        looked = [RoomDisks(self.world, room) for room in self.world.rooms]
        for disks in looked:
            self._check_told(disks)
            self._check_ids(disks)
            for server in self.world.servers:
                GraphCheck(server.name, server.disk.tables, disks, self.world.found).check()
                check_moments(server, disks, self.world.found)
                check_contents(server, disks, self.world.found)
        return looked

    # 1

    def _check_told(self, disks: RoomDisks) -> None:
        since = _descendants(disks, self._first_joins(disks).values())
        steady, inside = self._steady(disks, since), members(disks)
        owing = {
            server.name: _behind_gaps(server.disk.tables, disks) for server in self.world.servers
        }
        for told in self.world.told:
            if told.room_id != disks.room.room_id or told.event_id in self.world.attacks:
                continue  # the liar didn't mean to send what it withheld
            holders = {told.server}
            if told.event_id in since and told.server in inside:
                holders |= steady
            for server in sorted(holders):
                if told.event_id in owing[server]:
                    continue
                stored = disks.of[server].get(told.event_id)
                is_own = server == told.server  # then it may be known from a join's state alone
                if stored is None or (not stored.is_placed and not is_own):
                    self.world.found(f"{server} lacks {told.event_id}, told by {told.server}")

    def _steady(self, disks: RoomDisks, since: set[EventId]) -> set[ServerName]:
        """The servers that had a joined user at every event since each server's first join."""
        steady = set(self._first_joins(disks)) & members(disks) - self._misled(disks)
        for event_id in since:
            state = disks.oracle.after(event_id)
            if state is not None:
                steady &= joined_servers(disks, state)
        return steady

    def _misled(self, disks: RoomDisks) -> set[ServerName]:
        """The servers that refused an event on a liar's word, and so never asked for what it
        followed again; and the liar, of whose users it may have told nobody."""
        if not self.world.plan.lies:
            return set()
        return {self.world.servers[-1].name} | {
            name
            for name, stored in disks.of.items()
            if any(
                one.row["unverified"] and one.row["verdict"] != StoredVerdict.ACCEPTED
                for one in stored.values()
            )
        }

    def _first_joins(self, disks: RoomDisks) -> dict[ServerName, EventId]:
        """The first join of each server that it knows of: others may think that it is in the room
        when a join's answer was lost."""
        told = {(one.server, one.event_id) for one in self.world.told}
        first: dict[ServerName, EventId] = {}
        for event in disks.oracle.order:
            server = server_of(event.sender)
            if event.membership == "join" and (server, event.event_id) in told:
                first.setdefault(server, event.event_id)
        return first

    # 2

    def _check_ids(self, disks: RoomDisks) -> None:
        """One ID is one event: versions 1 and 2 leave IDs to servers, and a liar uses one twice."""
        seen: dict[EventId, bytes] = {}
        for name, stored in disks.of.items():
            for event_id, one in stored.items():
                payload = signature_payload(one.event)
                if seen.setdefault(event_id, payload) != payload:
                    self.world.found(f"{name} has another event as {event_id}")


def _behind_gaps(tables: Tables, disks: RoomDisks) -> set[EventId]:
    """What a server knows to be missing, and all before it: backfill will import_members it."""
    row_id = room_row_id(tables, disks.room.room_id)
    work = [EventId(event_id) for number, event_id in tables.gaps if number == row_id]
    found: set[EventId] = set()
    while work:
        event_id = work.pop()
        if event_id not in found and event_id in disks.events:
            found.add(event_id)
            work += disks.events[event_id].prev_events
    return found


def members(disks: RoomDisks) -> set[ServerName]:
    """The servers that are in the room by whatever anybody has last. One that was put out while
    it was away may not know it: nobody answers its questions any more, and each side
    soft-fails what the other sends."""
    oracle, servers = disks.oracle, disks.world.servers
    parents = {parent for event in disks.events.values() for parent in event.prev_events}
    leaves = disks.events.keys() - parents - oracle.rejected.keys()
    states = [oracle.after(one) for one in sorted(leaves)]
    known = [one for one in states if one is not None]
    joined = [joined_servers(disks, one) for one in (*known, oracle.resolved(known))]
    for server in servers:
        own = joined_servers(disks, current_state(server.disk.tables, disks.room.room_id))
        if server.name in own:
            joined.append(own)
        else:
            joined.append({one.name for one in servers if one is not server})
    return set.intersection(*joined)


class GraphCheck:
    """Check 2 of one server's disk."""

    def __init__(self, name: str, tables: Tables, disks: RoomDisks, found: Found) -> None:
        self._name, self._tables, self._disks, self._found = name, tables, disks, found
        self._stored = disks.of[ServerName(name)]
        self._complete = disks.complete(ServerName(name))
        self._states: dict[int, StateIds] = {}

    def check(self) -> None:
        """Everything."""
        self._check_current()
        for event_id, stored in self._stored.items():
            self._check_signature(stored.event)
            if event_id in self._complete and event_id in self._disks.oracle.before:
                self._check_verdict(stored)
                self._check_state(stored)

    def _check_signature(self, event: Event) -> None:
        sender = self._disks.world.by_name(server_of(event.sender))
        made = signatures_of(event).get(sender.name, {})
        try:
            sender.key.verify_key.verify(signature_payload(event), made[sender.key.key_id])
        except (KeyError, SignatureInvalid):
            self._found(f"{self._name} has {event.event_id}, not signed by {sender.name}")

    def _check_verdict(self, stored: Stored) -> None:
        event, row = stored.event, stored.row
        reason = self._disks.oracle.rejected.get(event.event_id)
        if (reason is not None) != (row["verdict"] == StoredVerdict.REJECTED):
            self._found(
                f"{self._name} has {event.event_id} ({event.type}) with verdict {row['verdict']}"
                f" ({row['reason']}), the oracle says {reason or 'allowed'}"
            )

    def _check_state(self, stored: Stored) -> None:
        event, row = stored.event, stored.row
        snapshot, before = row["snapshot_before"], self._disks.oracle.before[event.event_id]
        if snapshot not in self._states:
            try:
                state = snapshot_state(self._tables, row["room_row_id"], snapshot)
            except KeyError as missing:
                self._found(f"{self._name}: the snapshot {snapshot} needs {missing}")
                return
            self._states[snapshot] = state
        if self._states[snapshot] != before:
            self._found(
                f"{self._name} has another state before {event.event_id} ({event.type},"
                f" unverified {row['unverified']}): {difference(self._states[snapshot], before)}"
            )

    def _check_current(self) -> None:
        """The heads are the accepted events that no accepted one names as parent (since the last
        join through another server), and the current state is the oracle's over them."""
        row_id = room_row_id(self._tables, self._disks.room.room_id)
        row = None if row_id is None else self._tables.heads.get(row_id)
        if row_id is None or row is None:
            return
        heads = [self._tables.by_row_id[row_id, number]["event_id"] for number in row["heads"]]
        self._check_heads(heads)
        if not self._complete.issuperset(heads):
            return
        states = [self._disks.oracle.after(head) for head in sorted(heads)]
        wanted = self._disks.oracle.resolved([one for one in states if one is not None])
        state = snapshot_state(self._tables, row_id, row["snapshot_row_id"])
        if state != wanted:
            self._found(f"{self._name} has another current state: {difference(state, wanted)}")

    def _check_heads(self, heads: list[EventId]) -> None:
        accepted = [
            one
            for one in self._stored.values()
            if one.row["live_index"] is not None and one.row["verdict"] == StoredVerdict.ACCEPTED
        ]
        parents = {parent for one in accepted for parent in one.event.prev_events}
        live = [one for one in accepted if one.row["gap_index"] == 0]
        named_late = parents - {parent for one in live for parent in one.event.prev_events}
        since = max((one.row["live_index"] for one in accepted if self._is_entry(one)), default=0)
        leaves = {one.event.event_id for one in accepted} - parents
        new = {one.event.event_id for one in live if one.row["live_index"] >= since}
        wanted = leaves & new
        if self._disks.world.met["attack: flood"]:
            wanted = set()  # past a bound, heads that add nothing to the state may go
        # A head that only backfilled history names stays one until the next event names it.
        others = set(heads) - leaves - named_late
        if len(set(heads)) < len(heads) or not wanted <= set(heads) or others:
            self._found(f"{self._name} has heads {sorted(heads)}, its graph {sorted(wanted)}")

    def _is_entry(self, one: Stored) -> bool:
        """Is it a join of the server's user through another server?"""
        is_own_join = one.event.membership == "join" and server_of(one.event.sender) == self._name
        return is_own_join and not one.row["to_federate"]  # that server has sent it to all


def _descendants(disks: RoomDisks, of_all: Iterable[EventId]) -> set[EventId]:
    """The events that have all of the given ones among their ancestors, or are the last of them."""
    wanted = frozenset(of_all)
    seen: dict[EventId, frozenset[EventId]] = {}
    for event in disks.oracle.order:
        own = {event.event_id} & wanted
        known = (seen.get(parent, frozenset()) for parent in event.prev_events)
        seen[event.event_id] = frozenset(own).union(*known)
    return {event_id for event_id, ancestors in seen.items() if ancestors >= wanted}
