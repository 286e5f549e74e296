"""The engine's tables as dictionaries, and how a batch changes them: what PostgreSQL does, without
PostgreSQL. A batch is checked first and then applied, so that it is in whole or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from federation.events.ids import EventId
from homeserver import limits
from homeserver.storage.batches import CommitRows, ImportedMemberRows, KnownMember
from homeserver.storage.database import DataRefused
from homeserver.storage.logs import Epoch
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.rooms.state_changes import ResolutionRow, StateChangeRow
from homeserver.storage.timeline.events import EventRow, StoredVerdict
from homeserver.storage.timeline.rechecks import RecheckRows
from homeserver.storage.timeline.redactions import RedactedRow
from homeserver.storage.timeline.transactions import TransactionRow

Fields = dict[str, Any]
_EVENT_FIELDS = EventRow.__struct_fields__
_PLACED_FIELDS = (
    "position",
    "live_index",
    "gap_index",
    "verdict",
    "reason",
    "rule",
    "outlier",
    "unverified",
    "to_federate",
    "snapshot_before",
    "snapshot_after",
    "replaces",
)


def fields_of(row: EventRow) -> Fields:
    """An event's row by column names."""
    return {name: getattr(row, name) for name in _EVENT_FIELDS} | {"redacts": None}


def _change_key(row: StateChangeRow) -> tuple[int, int, str, str]:
    return row.room_row_id, row.position, row.type, row.state_key


def _gives_way(stored: Fields, row: EventRow) -> bool:
    return bool(stored["outlier"] or (stored["unverified"] and not row.unverified))


@dataclass
class Tables:
    """Everything that outlives the process."""

    epoch: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    position: int = 0
    next_row_id: int = 1
    rooms: dict[str, Fields] = field(default_factory=dict)
    heads: dict[int, Fields] = field(default_factory=dict)
    events: dict[str, Fields] = field(default_factory=dict)
    by_row_id: dict[tuple[int, int], Fields] = field(default_factory=dict)
    snapshots: dict[tuple[int, int], Fields] = field(default_factory=dict)
    changes: dict[tuple[int, int, str, str], StateChangeRow] = field(default_factory=dict)
    members: dict[tuple[int, str], Fields] = field(default_factory=dict)
    servers: dict[tuple[int, str, int], int | None] = field(default_factory=dict)
    transactions: dict[tuple[str, str, bytes], TransactionRow] = field(default_factory=dict)
    awaited: dict[tuple[int, str, str], None] = field(default_factory=dict)
    resolutions: dict[tuple[int, int], ResolutionRow] = field(default_factory=dict)
    gaps: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    unverified_parents: dict[tuple[int, str, int], bool] = field(default_factory=dict)
    rechecks_due: dict[tuple[int, int], None] = field(default_factory=dict)
    edus: dict[tuple[str, int], bytes] = field(default_factory=dict)
    places_lost: dict[tuple[int, int], str] = field(default_factory=dict)
    """By room and place: live events that were rejected after all. For checks: no table has it."""

    # Rooms and events

    def take_row_ids(self) -> range:
        """The next block of numbers."""
        first = self.next_row_id
        self.next_row_id += 1000
        return range(first, first + 1000)

    def ensure_room(self, row_id: int, room_id: str, version: str) -> int:
        """`rooms.ensure`."""
        room = self.rooms.setdefault(
            room_id, {"room_row_id": row_id, "room_id": room_id, "version": version}
        )
        room["version"] = room["version"] or version
        number: int = room["room_row_id"]
        return number

    def room_of(self, room_row_id: int) -> Fields:
        """The row of a room by its number."""
        return next(room for room in self.rooms.values() if room["room_row_id"] == room_row_id)

    def insert_events(self, rows: Sequence[EventRow]) -> None:
        """`events.insert`."""
        for row in rows:
            stored = self.events.get(row.event_id)
            if stored is None:
                self._add_event(row)
            elif _gives_way(stored, row):
                if (
                    stored["gap_index"] == 0
                    and row.live_index is None
                    and row.verdict == StoredVerdict.REJECTED
                ):
                    self.places_lost[row.room_row_id, stored["live_index"]] = row.event_id
                stored.update({name: getattr(row, name) for name in _PLACED_FIELDS})

    def insert_outliers(self, rows: Sequence[EventRow]) -> None:
        """`events.insert_outliers`."""
        for row in rows:
            if (
                row.event_id not in self.events
                and (row.room_row_id, row.event_row_id) not in self.by_row_id
            ):
                self._add_event(row)

    def _add_event(self, row: EventRow) -> None:
        self.events[row.event_id] = self.by_row_id[row.room_row_id, row.event_row_id] = fields_of(
            row
        )

    def check_events(self, rows: Sequence[EventRow], *, plain: bool) -> None:
        """Raises DataRefused where PostgreSQL would."""
        written: set[str] = set()
        numbers: set[tuple[int, int]] = set()
        for row in rows:
            number = (row.room_row_id, row.event_row_id)
            stored = self.events.get(row.event_id)
            if stored is not None and not _gives_way(stored, row) and not plain:
                continue
            if row.event_id in written or (plain and stored is not None):
                raise DataRefused("the event is stored")
            written.add(row.event_id)
            if stored is None:
                if number in self.by_row_id or number in numbers:
                    raise DataRefused("the number is taken")
                numbers.add(number)

    # Batches

    def check(self, rows: CommitRows, *, plain: bool) -> None:
        """Raises DataRefused where a constraint would be broken."""
        self.check_events(rows.events, plain=plain)
        taken: tuple[tuple[Sequence[Any], Collection[Any]], ...] = (
            ([(one.room_row_id, one.snapshot_row_id) for one in rows.snapshots], self.snapshots),
            ([_change_key(one) for one in rows.changes], self.changes),
            ([one[:3] for one in rows.sent], self.transactions),
            ([(one.room_row_id, one.position) for one in rows.resolutions], self.resolutions),
        )
        for keys, table in taken:
            if len(set(keys)) < len(keys) or any(key in table for key in keys):
                raise DataRefused("a key is taken")

    def apply(self, rows: CommitRows, *, plain: bool) -> None:
        """Writes a batch that was checked."""
        self.position = rows.up_to
        for row_id, room_id, version in rows.rooms:
            self.ensure_room(row_id, room_id, version)
        self.insert_events(rows.events)
        for row_id, heads, snapshot, live_index, position in rows.heads:
            self._set_heads(row_id, list(heads), snapshot, live_index, position, plain=plain)
        for user, device, key, event_id, position in rows.sent:
            self.transactions[user, device, key] = TransactionRow(key, EventId(event_id), position)
        if not plain:
            self._apply_state(rows)
            self._apply_members(rows)
            self.apply_redactions(rows.redacted, rows.awaited)
            self.open_gaps(rows.gaps)
            for row_id, event_id in rows.rechecks.placed:
                self.gaps.pop((row_id, event_id), None)
            self.apply_rechecks(rows.rechecks)

    def _set_heads(
        self,
        row_id: int,
        heads: list[int],
        snapshot: int,
        live_index: int,
        position: int,
        *,
        plain: bool,
    ) -> None:
        row = self.heads.get(row_id)
        if plain:
            if row is not None:
                row.update(heads=heads, live_index=live_index, position=position)
            return
        self.heads[row_id] = {
            "heads": heads,
            "snapshot_row_id": snapshot,
            "live_index": live_index,
            "position": position,
        }

    def _apply_state(self, rows: CommitRows) -> None:
        self.insert_snapshots(rows.snapshots)
        for change in rows.changes:
            self.changes[_change_key(change)] = change
        self._record_resolutions(rows.resolutions)
        for position, edu in rows.log.remote_edus:
            self.edus[edu.destination, position] = edu.edu

    def _record_resolutions(self, rows: Sequence[ResolutionRow]) -> None:
        for row in rows:
            self.resolutions[row.room_row_id, row.position] = row
        for row_id in {row.room_row_id for row in rows}:
            kept = sorted((key for key in self.resolutions if key[0] == row_id), reverse=True)
            for key in kept[limits.RESOLUTIONS_KEPT :]:
                del self.resolutions[key]

    def insert_snapshots(self, rows: Sequence[Any]) -> None:
        """`snapshots.insert`."""
        for row in rows:
            self.snapshots[row.room_row_id, row.snapshot_row_id] = {
                "room_row_id": row.room_row_id,
                "snapshot_row_id": row.snapshot_row_id,
                "base_row_id": row.base_row_id,
                "ordinal": row.ordinal,
                "added": list(row.added),
                "removed": list(row.removed),
            }

    def _apply_members(self, rows: CommitRows) -> None:
        for imported in rows.imported:
            self.upsert_members(imported.members)
            self._reset_servers(imported)
        self.upsert_members(rows.members)
        for row_id, server, position in rows.servers_joined:
            self.servers.setdefault((row_id, server, position), None)
        for row_id, server, position in sorted(rows.servers_left, key=lambda one: one[2]):
            for key, left in self.servers.items():
                if key[:2] == (row_id, server) and left is None and key[2] < position:
                    self.servers[key] = position
        for one in rows.log.memberships:
            self.upsert_members([self._known_member(one)])

    def _known_member(self, one: KnownMember) -> MembershipRow:
        if one.room_id not in self.rooms:
            self.ensure_room(self.take_row_ids().start, one.room_id, "")
        row_id = self.rooms[one.room_id]["room_row_id"]
        return MembershipRow(
            row_id,
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
            self.members[row.room_row_id, row.user_id] = {
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
        row_id, present = imported.room_row_id, set()
        for key, left in self.servers.items():
            if key[0] == row_id and left is None:
                present.add(key[1])
                if key[1] not in imported.servers:
                    self.servers[key] = imported.position
        for server in imported.servers:
            if server not in present:
                self.servers[row_id, server, imported.position] = None

    def apply_redactions(
        self, redacted: Sequence[RedactedRow], waiting: Sequence[tuple[int, str, str]]
    ) -> None:
        """`batches.write_redactions`."""
        for one in redacted:
            stored = self.events.get(one.event_id)
            if stored is not None and stored["room_row_id"] == one.room_row_id:
                stored.update(json=one.json, redacted_by=one.redacted_by)
            by = self.events.get(one.redacted_by)
            if by is not None and by["room_row_id"] == one.room_row_id:
                by["redacts"] = one.event_id
            for key in [k for k in self.awaited if k[:2] == (one.room_row_id, one.event_id)]:
                del self.awaited[key]
        for awaited in waiting:
            self.awaited[awaited] = None

    def open_gaps(self, rows: Sequence[tuple[int, str, int, int]]) -> None:
        """`redactions.open_gaps`."""
        for row_id, missing, live_index, gap_index in rows:
            self.gaps[row_id, missing] = min(
                (live_index, gap_index), self.gaps.get((row_id, missing), (live_index, gap_index))
            )

    def apply_rechecks(self, rows: RecheckRows) -> None:
        """`history.rechecks.write`."""
        for row_id, parent, event_row_id, missing in rows.opened:
            self.unverified_parents.setdefault((row_id, parent, event_row_id), missing)
        for number in (*rows.not_due, *(one[:2] for one in rows.verified)):
            self.rechecks_due.pop(number, None)
        for number in rows.marked:
            if number in self.by_row_id:
                self.by_row_id[number]["unverified"] = True
        verified = {one[:2] for one in rows.verified}
        for number in verified & self.by_row_id.keys():
            self.by_row_id[number]["unverified"] = False
        for key in [one for one in self.unverified_parents if (one[0], one[2]) in verified]:
            del self.unverified_parents[key]
        named = {(row_id, event_id) for row_id, _, event_id in rows.verified}
        placed = set(rows.placed)
        for key, missing in list(self.unverified_parents.items()):
            is_placed = missing and key[:2] in placed
            if is_placed:
                self.unverified_parents[key] = False
            if is_placed or key[:2] in named:
                self.rechecks_due[key[0], key[2]] = None
        self.rechecks_due.update(dict.fromkeys((*rows.marked, *rows.due)))

    def copy(self) -> Tables:
        """For a look at a moment."""
        return deepcopy(self)
