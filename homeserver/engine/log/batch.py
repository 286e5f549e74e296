"""One group commit: the rows that it writes, and their positions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

import msgspec

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, is_user_id
from homeserver.engine.entries import (
    AccountDataEntry,
    Committed,
    DeviceListEntry,
    Entry,
    EventEntry,
    MembershipEntry,
    Placed,
    ReceiptEntry,
    RemoteEduEntry,
    StateChange,
    StateEntry,
    ToDeviceEntry,
    Unit,
)
from homeserver.engine.log.staging import (
    ImportedMembers,
    Resolved,
    RoomUnit,
    StagedEvent,
    heads_row,
    redacted_rows,
)
from homeserver.engine.rooms.room import Room
from homeserver.storage.batches import (
    CommitRows,
    HeadsRow,
    ImportedMemberRows,
    KnownMember,
    LogRows,
)
from homeserver.storage.database import Connection
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.rooms.state_changes import ResolutionRow, StateChangeRow
from homeserver.storage.text import escape
from homeserver.storage.timeline.events import EventRow
from homeserver.storage.timeline.rechecks import RecheckRows


@dataclass(slots=True)
class PlainUnit:
    """A unit without room events."""

    unit: Unit
    done: asyncio.Future[Committed]
    is_late: bool = False


PendingUnit = RoomUnit | PlainUnit


class Positioned(NamedTuple):
    """A staged event of a unit, and its position in the log: None if it isn't released to
    clients."""

    unit: CommitUnit
    staged: StagedEvent
    position: int | None

    @property
    def row(self) -> EventRow:
        """Returns the row to write."""
        if self.position is None:
            return self.staged.row
        return msgspec.structs.replace(self.staged.row, position=self.position)


class CommitUnit:
    """One unit within a batch."""

    def __init__(self, pending: PendingUnit) -> None:
        self.pending = pending
        self.room_unit = pending if isinstance(pending, RoomUnit) else None
        self.staged: Sequence[StagedEvent] = self.room_unit.staged if self.room_unit else ()
        self.correction = self.room_unit.correction if self.room_unit else None
        self.entries: list[Entry] = []
        if self.correction is not None and self.correction.entry is not None:
            self.entries.append(self.correction.entry)
        self.entries += [one.entry for one in self.staged if one.entry is not None]
        self.entries += pending.unit.entries
        self.first = 0
        self.error: Exception | None = None

    @property
    def committed(self) -> Committed:
        """Returns the result for the submitter."""
        return Committed(self.first, self.first + len(self.entries) - 1, self.entries)

    @property
    def room(self) -> Room:
        """Returns the room of a unit that has one."""
        assert self.room_unit is not None, "staged events and corrections are of a room"
        return self.room_unit.room

    def positioned(self) -> list[Positioned]:
        """Returns the staged events with their positions. An entry of the correction comes before
        them, as in `entries`."""
        found = []
        at = self.first + (self.correction is not None and self.correction.entry is not None)
        for staged in self.staged:
            if staged.entry is None:
                found.append(Positioned(self, staged, None))
            else:
                found.append(Positioned(self, staged, at))
                at += 1
        return found

    def publish_room(self) -> None:
        """Makes the staged view the committed one, for a unit that has a room."""
        unit = self.room_unit
        if self.error is not None or unit is None:
            return
        room, position = unit.room, self.first
        correction = self.correction
        if correction is not None and correction.view is not None:
            is_entry = correction.entry is not None
            # Without an entry nothing is told to clients, so the room is as new as it was.
            room.publish(correction.view, position if is_entry else room.view.position)
            if is_entry:
                # The ring has timeline events only, so it can't tell this change to readers.
                room.changes_start = position
                position += 1
        for staged in self.staged:
            if staged.entry is None:
                continue
            if staged.view is not None:
                room.publish(staged.view, position)
            room.remember(Placed(position, staged.entry))
            position += 1
        if unit.committed is not None:
            unit.committed(unit)


class Batch:
    """The units that commit together."""

    def __init__(self, pending: Sequence[PendingUnit], position: int) -> None:
        self.units = [CommitUnit(one) for one in pending]
        self.old = position
        self.up_to = position
        self.sent = False  # whether the database may have received it
        # Work may add entries, which take positions: then these are assigned after it (`run_work`).
        if not self.has_work:
            self.number()

    @property
    def has_work(self) -> bool:
        """Returns whether a unit writes rows of its own."""
        return any(one.pending.unit.work is not None for one in self.units)

    @property
    def is_plain(self) -> bool:
        """Returns whether the batch has only messages, so that one statement is enough."""
        return all(
            one.room_unit is not None
            and one.staged
            and len(one.entries) == len(one.staged)
            and not one.room_unit.is_new
            and one.correction is None
            and all(staged.is_plain for staged in one.staged)
            for one in self.units
        )

    def number(self) -> None:
        """Assigns positions to the entries of all units that did not fail."""
        position = self.old
        for one in self.units:
            if one.error is not None:
                continue
            one.first = position + 1
            position += len(one.entries)
        self.up_to = position

    def placed(self) -> list[Placed]:
        """Returns all entries with their positions."""
        return [
            Placed(one.first + i, entry)
            for one in self.units
            if one.error is None
            for i, entry in enumerate(one.entries)
        ]

    def staged(self) -> list[Positioned]:
        """Returns all staged events of units that did not fail."""
        return [
            positioned for one in self.units if one.error is None for positioned in one.positioned()
        ]

    def witnesses(self) -> list[tuple[int, int, bool]]:
        """Returns events that are stored in this form (room_row_id, event_row_id, unverified) if
        and only if the batch is: new ones, and those that it verifies. After a lost connection they
        tell its outcome."""
        found = [
            (one.row.room_row_id, one.row.event_row_id, one.row.unverified)
            for unit in self.units
            if unit.error is None
            for one in unit.staged
        ]
        for one in self.units:
            if one.error is None and one.correction is not None:
                found += [
                    (row_id, event, False) for row_id, event, _ in one.correction.rechecks.verified
                ]
        return found

    async def run_work(self, connection: Connection) -> None:
        """Runs the units' own work, each under a savepoint, then assigns positions."""
        for one in self.units:
            work = one.pending.unit.work
            if work is None:
                continue
            try:
                async with connection.transaction():
                    one.entries += await work(connection)
            except MatrixError as error:
                one.error = error
                if one.room_unit is not None:
                    raise  # later staged events build on it
        self.number()

    def rows(self, epoch: int) -> CommitRows:
        """Returns all rows to write."""
        staged = self.staged()
        rows = CommitRows(epoch, self.old, self.up_to)
        corrected = [one for one in self.units if one.error is None and one.correction]
        for one in corrected:
            _add_correction(rows, one)
        rows.events += [one.row for one in staged]
        rows.heads = _heads(corrected, staged)
        rows.sent = _transactions(staged)
        # Messages have no further rows, and their entries are read back from the rows of events.
        if self.is_plain:
            return rows
        self._add_rooms(rows)
        rows.snapshots += [row for one in staged for row in one.staged.snapshots]
        _add_changes(rows, staged)
        _add_redactions(rows, staged)
        for placed in self.placed():
            _add_entry(rows.log, placed)
        return rows

    def _add_rooms(self, rows: CommitRows) -> None:
        for one in self.units:
            pending = one.room_unit
            if one.error is not None or pending is None:
                continue
            room = pending.room
            if pending.is_new:
                rows.rooms.append((room.row_id, room.room_id, room.version.name))
            if pending.imported is not None:
                rows.imported.append(_imported(room, pending.imported, self.old))


def _imported(room: Room, imported: ImportedMembers, position: int) -> ImportedMemberRows:
    members = [
        MembershipRow(room.row_id, user, ref.membership or "leave", ref.event_id, user, position)
        for user, ref in imported.members
    ]
    return ImportedMemberRows(room.row_id, members, imported.servers, position + 1)


def _heads(corrected: Sequence[CommitUnit], staged: Sequence[Positioned]) -> list[HeadsRow]:
    """Returns the newest heads of each room."""
    newest: dict[int, HeadsRow] = {}
    for one in corrected:
        room, correction = one.room, one.correction
        if correction is not None and correction.view is not None:
            view = correction.view
            position = view.position if correction.entry is None else one.first
            newest[room.row_id] = heads_row(room, view, position)
    # A correction is made while nothing of its room is staged, so staged events come after it.
    for unit, event, at in staged:
        if event.view is not None:
            room = unit.room
            newest[room.row_id] = heads_row(room, event.view, at or 0)
    return list(newest.values())


def _transactions(staged: Sequence[Positioned]) -> list[tuple[str, str, bytes, str, int]]:
    return [
        (key.user_id, key.device_id, hashed, event.row.event_id, position or 0)
        for _, event, position in staged
        if event.transaction is not None
        for key, hashed in (event.transaction,)
    ]


def _add_changes(rows: CommitRows, staged: Sequence[Positioned]) -> None:
    for unit, event, position in staged:
        if position is None:
            continue
        row_id = unit.room.row_id
        if event.resolved is not None:
            event_id = event.event.event_id
            rows.resolutions.append(_resolution_row(row_id, position, event_id, event.resolved))
        for change in event.changes:
            rows.changes.append(_change_row(row_id, position, change))
            if _is_membership(change):
                rows.members.append(_membership_row(row_id, position, event.event, change))
        rows.servers_joined += [(row_id, server, position) for server in event.servers_joined]
        rows.servers_left += [(row_id, server, position) for server in event.servers_left]


def _add_correction(rows: CommitRows, one: CommitUnit) -> None:
    correction, row_id, position = one.correction, one.room.row_id, one.first
    assert correction is not None, "the unit has one"
    rows.events += correction.rows
    rows.snapshots += correction.snapshots
    rows.rechecks.extend(correction.rechecks)
    rows.redacted += redacted_rows(row_id, correction.redacting)
    if correction.resolved is not None and correction.cause is not None:
        rows.resolutions.append(
            _resolution_row(row_id, position, correction.cause, correction.resolved)
        )
    for change in correction.entry.changes if correction.entry else ():
        rows.changes.append(_change_row(row_id, position, change))
        if _is_membership(change):
            rows.members.append(_membership_row(row_id, position, None, change))
    rows.servers_joined += [(row_id, server, position) for server in correction.servers_joined]
    rows.servers_left += [(row_id, server, position) for server in correction.servers_left]


def _is_membership(change: StateChange) -> bool:
    kind, key = change.key
    return kind == event_types.MEMBER and is_user_id(key)


def _change_row(row_id: int, position: int, change: StateChange) -> StateChangeRow:
    kind, key = change.key
    return StateChangeRow(
        row_id,
        position,
        escape(kind),
        escape(key),
        change.event_id,
        change.membership,
        change.former,
    )


def _resolution_row(
    row_id: int, position: int, event_id: EventId, resolved: Resolved
) -> ResolutionRow:
    return ResolutionRow(
        row_id,
        position,
        event_id,
        resolved.made_ms,
        resolved.state_before,
        resolved.state_after,
        [event_id for event_id, _ in resolved.branches],
        [snapshot for _, snapshot in resolved.branches],
    )


def _membership_row(
    row_id: int, position: int, event: Event | None, change: StateChange
) -> MembershipRow:
    """Returns the row of a changed membership. After a merge the membership event may be another
    than the placed one; its sender isn't in memory then, and the user's own ID replaces it."""
    own = event is not None and change.event_id == event.event_id
    return MembershipRow(
        row_id,
        change.key[1],
        change.membership or "leave",
        change.event_id or "",
        event.sender if own and event is not None else change.key[1],
        position,
    )


def _add_redactions(rows: CommitRows, staged: Sequence[Positioned]) -> None:
    for unit, event, _ in staged:
        row_id = unit.room.row_id
        rows.redacted += redacted_rows(row_id, event.redacting)
        if event.waits_for_target is not None:
            rows.awaited.append((row_id, event.waits_for_target, event.event.event_id))
        if event.row.live_index is not None and event.row.gap_index is not None:
            rows.gaps += [
                (row_id, missing, event.row.live_index, event.row.gap_index)
                for missing in event.missing_parents
            ]
        _add_rechecks(rows.rechecks, row_id, event)


def _add_rechecks(rechecks: RecheckRows, row_id: int, event: StagedEvent) -> None:
    """Adds the recheck rows of an event: an unverified event waits for its parents; an event that
    fills a gap ends the wait of others."""
    if event.is_awaited:
        rechecks.placed.append((row_id, event.event.event_id))
    if event.row.unverified:
        rechecks.opened += [
            (row_id, parent, event.row.event_row_id, parent in event.missing_parents)
            for parent in event.event.prev_events
        ]
        # All parents are here, so no arrival would make it due.
        if not event.missing_parents:
            rechecks.due.append((row_id, event.row.event_row_id))


def _add_entry(log: LogRows, placed: Placed) -> None:
    position, entry = placed.position, placed.entry
    match entry:
        case AccountDataEntry():
            log.account_data.append((position, entry))
        case ReceiptEntry():
            log.receipts.append((position, entry))
        case ToDeviceEntry():
            log.to_device.append((position, entry))
        case RemoteEduEntry():
            log.remote_edus.append((position, entry))
        case DeviceListEntry():
            log.device_lists.append((position, entry))
        case MembershipEntry():
            log.memberships.append(
                KnownMember(
                    entry.room_id,
                    entry.user_id,
                    entry.membership,
                    entry.event_id,
                    entry.sender,
                    position,
                    entry.stripped,
                    entry.event,
                    entry.version,
                    entry.via,
                )
            )
        case EventEntry() | StateEntry():
            pass  # a room's rows
        case _:
            assert_never(entry)
