"""The engine's tables as dictionaries, and how a batch changes them: what PostgreSQL does, without
PostgreSQL. A batch is checked first and then applied, so that it is in whole or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from homeserver import limits
from homeserver.storage.batches import CommitRows, ImportedMemberRows, KnownMember, RedactedRow
from homeserver.storage.database import DataRefused
from homeserver.storage.logs import Epoch
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.rooms.state_changes import ResolutionRow
from homeserver.storage.timeline.events import REJECTED, EventRow
from homeserver.storage.timeline.proofs import ProofRows

Fields = dict[str, Any]
_EVENT_FIELDS = EventRow.__struct_fields__
_PLACED_FIELDS = (
    "position",
    "n",
    "fill",
    "verdict",
    "reason",
    "outlier",
    "unproven",
    "to_federate",
    "snapshot_before",
    "snapshot_after",
    "replaces",
)


def fields_of(row: EventRow) -> Fields:
    """An event's row by column names."""
    return {name: getattr(row, name) for name in _EVENT_FIELDS} | {"redacts": None}


def _gives_way(stored: Fields, row: EventRow) -> bool:
    return bool(stored["outlier"] or (stored["unproven"] and not row.unproven))


@dataclass
class Tables:
    """Everything that outlives the process."""

    epoch: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    position: int = 0
    next_nid: int = 1
    rooms: dict[str, Fields] = field(default_factory=dict)
    heads: dict[int, Fields] = field(default_factory=dict)
    events: dict[str, Fields] = field(default_factory=dict)
    by_nid: dict[tuple[int, int], Fields] = field(default_factory=dict)
    snapshots: dict[tuple[int, int], Fields] = field(default_factory=dict)
    changes: dict[tuple[int, int, str, str], Fields] = field(default_factory=dict)
    members: dict[tuple[int, str], Fields] = field(default_factory=dict)
    servers: dict[tuple[int, str, int], int | None] = field(default_factory=dict)
    transactions: dict[tuple[str, str, bytes], Fields] = field(default_factory=dict)
    awaited: dict[tuple[int, str, str], None] = field(default_factory=dict)
    resolutions: dict[tuple[int, int], ResolutionRow] = field(default_factory=dict)
    gaps: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    unproven_parents: dict[tuple[int, str, int], bool] = field(default_factory=dict)
    rechecks_due: dict[tuple[int, int], None] = field(default_factory=dict)
    edus: dict[tuple[str, int], bytes] = field(default_factory=dict)
    places_lost: dict[tuple[int, int], str] = field(default_factory=dict)
    """By room and place: live events that were rejected after all. For checks: no table has it."""

    # Rooms and events

    def take_nids(self) -> range:
        """The next block of numbers."""
        first = self.next_nid
        self.next_nid += 1000
        return range(first, first + 1000)

    def ensure_room(self, nid: int, room_id: str, version: str) -> int:
        """`rooms.ensure`."""
        room = self.rooms.setdefault(
            room_id, {"room_nid": nid, "room_id": room_id, "version": version}
        )
        room["version"] = room["version"] or version
        number: int = room["room_nid"]
        return number

    def room_of(self, room_nid: int) -> Fields:
        """The row of a room by its number."""
        return next(room for room in self.rooms.values() if room["room_nid"] == room_nid)

    def insert_events(self, rows: Sequence[EventRow]) -> None:
        """`events.insert`."""
        for row in rows:
            stored = self.events.get(row.event_id)
            if stored is None:
                self._add_event(row)
            elif _gives_way(stored, row):
                if stored["fill"] == 0 and row.n is None and row.verdict == REJECTED:
                    self.places_lost[row.room_nid, stored["n"]] = row.event_id
                stored.update({name: getattr(row, name) for name in _PLACED_FIELDS})

    def insert_outliers(self, rows: Sequence[EventRow]) -> None:
        """`events.insert_outliers`."""
        for row in rows:
            if row.event_id not in self.events and (row.room_nid, row.event_nid) not in self.by_nid:
                self._add_event(row)

    def _add_event(self, row: EventRow) -> None:
        self.events[row.event_id] = self.by_nid[row.room_nid, row.event_nid] = fields_of(row)

    def check_events(self, rows: Sequence[EventRow], *, plain: bool) -> None:
        """Raises DataRefused where PostgreSQL would."""
        written: set[str] = set()
        numbers: set[tuple[int, int]] = set()
        for row in rows:
            number = (row.room_nid, row.event_nid)
            stored = self.events.get(row.event_id)
            if stored is not None and not _gives_way(stored, row) and not plain:
                continue
            if row.event_id in written or (plain and stored is not None):
                raise DataRefused("the event is stored")
            written.add(row.event_id)
            if stored is None:
                if number in self.by_nid or number in numbers:
                    raise DataRefused("the number is taken")
                numbers.add(number)

    # Batches

    def check(self, rows: CommitRows, *, plain: bool) -> None:
        """Raises DataRefused where a constraint would be broken."""
        self.check_events(rows.events, plain=plain)
        taken: tuple[tuple[Sequence[Any], Collection[Any]], ...] = (
            ([(one.room_nid, one.snapshot_nid) for one in rows.snapshots], self.snapshots),
            ([one[:4] for one in rows.changes], self.changes),
            ([one[:3] for one in rows.sent], self.transactions),
            ([(one.room_nid, one.position) for one in rows.resolutions], self.resolutions),
        )
        for keys, table in taken:
            if len(set(keys)) < len(keys) or any(key in table for key in keys):
                raise DataRefused("a key is taken")

    def apply(self, rows: CommitRows, *, plain: bool) -> None:
        """Writes a batch that was checked."""
        self.position = rows.up_to
        for nid, room_id, version in rows.rooms:
            self.ensure_room(nid, room_id, version)
        self.insert_events(rows.events)
        for nid, heads, snapshot, n, position in rows.heads:
            self._set_heads(nid, list(heads), snapshot, n, position, plain=plain)
        for user, device, key, event_id, position in rows.sent:
            self.transactions[user, device, key] = {
                "key": key,
                "event_id": event_id,
                "position": position,
            }
        if not plain:
            self._apply_state(rows)
            self._apply_members(rows)
            self.apply_redactions(rows.redacted, rows.awaited)
            self.open_gaps(rows.gaps)
            for nid, event_id in rows.proofs.placed:
                self.gaps.pop((nid, event_id), None)
            self.apply_proofs(rows.proofs)

    def _set_heads(
        self, nid: int, heads: list[int], snapshot: int, n: int, position: int, *, plain: bool
    ) -> None:
        row = self.heads.get(nid)
        if plain:
            if row is not None:
                row.update(heads=heads, n=n, position=position)
            return
        self.heads[nid] = {"heads": heads, "snapshot_nid": snapshot, "n": n, "position": position}

    def _apply_state(self, rows: CommitRows) -> None:
        self.insert_snapshots(rows.snapshots)
        for nid, position, kind, key, event_id, membership, former in rows.changes:
            self.changes[nid, position, kind, key] = {
                "position": position,
                "type": kind,
                "state_key": key,
                "event_id": event_id,
                "membership": membership,
                "former": former,
            }
        self._record_resolutions(rows.resolutions)
        for position, edu in rows.log.remote_edus:
            self.edus[edu.destination, position] = edu.edu

    def _record_resolutions(self, rows: Sequence[ResolutionRow]) -> None:
        for row in rows:
            self.resolutions[row.room_nid, row.position] = row
        for nid in {row.room_nid for row in rows}:
            kept = sorted((key for key in self.resolutions if key[0] == nid), reverse=True)
            for key in kept[limits.RESOLUTIONS_KEPT :]:
                del self.resolutions[key]

    def insert_snapshots(self, rows: Sequence[Any]) -> None:
        """`snapshots.insert`."""
        for row in rows:
            self.snapshots[row.room_nid, row.snapshot_nid] = {
                "room_nid": row.room_nid,
                "snapshot_nid": row.snapshot_nid,
                "base_nid": row.base_nid,
                "ordinal": row.ordinal,
                "added": list(row.added),
                "removed": list(row.removed),
            }

    def _apply_members(self, rows: CommitRows) -> None:
        for imported in rows.imported:
            self.upsert_members(imported.members)
            self._reset_servers(imported)
        self.upsert_members(rows.members)
        for nid, server, position in rows.servers_left:
            for key, left in self.servers.items():
                if key[:2] == (nid, server) and left is None:
                    self.servers[key] = position
        for nid, server, position in rows.servers_joined:
            self.servers.setdefault((nid, server, position), None)
        for one in rows.log.memberships:
            self.upsert_members([self._known_member(one)])

    def _known_member(self, one: KnownMember) -> MembershipRow:
        if one.room_id not in self.rooms:
            self.ensure_room(self.take_nids().start, one.room_id, "")
        nid = self.rooms[one.room_id]["room_nid"]
        return MembershipRow(
            nid,
            one.user_id,
            one.membership,
            one.event_id,
            one.sender,
            one.position,
            one.stripped,
            one.event,
            one.version,
            one.via,
        )

    def upsert_members(self, rows: Sequence[MembershipRow]) -> None:
        """As `storage.memberships.upsert`."""
        for row in rows:
            self.members[row.room_nid, row.user_id] = {
                "membership": row.membership,
                "event_id": row.event_id,
                "sender": row.sender,
                "position": row.position,
                "forgotten": False,
                "stripped": row.stripped,
                "event": row.event,
                "version": row.version,
                "via": row.via,
            }

    def _reset_servers(self, imported: ImportedMemberRows) -> None:
        nid, present = imported.room_nid, set()
        for key, left in self.servers.items():
            if key[0] == nid and left is None:
                present.add(key[1])
                if key[1] not in imported.servers:
                    self.servers[key] = imported.position
        for server in imported.servers:
            if server not in present:
                self.servers[nid, server, imported.position] = None

    def apply_redactions(
        self, redacted: Sequence[RedactedRow], waiting: Sequence[tuple[int, str, str]]
    ) -> None:
        """`batches.write_redactions`."""
        for one in redacted:
            stored = self.events.get(one.event_id)
            if stored is not None and stored["room_nid"] == one.room_nid:
                stored.update(json=one.json, redacted_by=one.redacted_by)
            by = self.events.get(one.redacted_by)
            if by is not None and by["room_nid"] == one.room_nid:
                by["redacts"] = one.event_id
            for key in [k for k in self.awaited if k[:2] == (one.room_nid, one.event_id)]:
                del self.awaited[key]
        for awaited in waiting:
            self.awaited[awaited] = None

    def open_gaps(self, rows: Sequence[tuple[int, str, int, int]]) -> None:
        """`redactions.open_gaps`."""
        for nid, missing, n, fill in rows:
            self.gaps[nid, missing] = min((n, fill), self.gaps.get((nid, missing), (n, fill)))

    def apply_proofs(self, rows: ProofRows) -> None:
        """`history.proofs.write`."""
        for nid, parent, event_nid, missing in rows.opened:
            self.unproven_parents.setdefault((nid, parent, event_nid), missing)
        for number in (*rows.looked_at, *(one[:2] for one in rows.proven)):
            self.rechecks_due.pop(number, None)
        for number in rows.marked:
            if number in self.by_nid:
                self.by_nid[number]["unproven"] = True
        proven = {one[:2] for one in rows.proven}
        for number in proven & self.by_nid.keys():
            self.by_nid[number]["unproven"] = False
        for key in [one for one in self.unproven_parents if (one[0], one[2]) in proven]:
            del self.unproven_parents[key]
        named = {(nid, event_id) for nid, _, event_id in rows.proven}
        placed = set(rows.placed)
        for key, missing in list(self.unproven_parents.items()):
            is_placed = missing and key[:2] in placed
            if is_placed:
                self.unproven_parents[key] = False
            if is_placed or key[:2] in named:
                self.rechecks_due[key[0], key[2]] = None
        self.rechecks_due.update(dict.fromkeys((*rows.marked, *rows.due)))

    def copy(self) -> Tables:
        """For a look at a moment."""
        return deepcopy(self)
