"""Staged events: events that have their place in a room but aren't committed yet.

`append_to_timeline` computes the effects of an accepted event: the new view, the rows to write, the
log entry. `store_as_outlier` handles events that are stored without a place (soft-failed,
rejected). Both are pure: the caller resolved the state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import immutables
import msgspec

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, ServerName, server_of
from homeserver import limits
from homeserver.engine.entries import (
    Committed,
    EventEntry,
    StateChange,
    StateEntry,
    TransactionKey,
    Unit,
    kept_client,
)
from homeserver.engine.rooms.redactions import Redacting
from homeserver.engine.rooms.room import Head, Room, RoomView
from homeserver.engine.rooms.snapshots import (
    Delta,
    StateMap,
    StateRef,
    StateSnapshot,
    change_between,
    extended,
    first_chain,
    membership_of,
)
from homeserver.rules.timeline.relations import relation_columns
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.text import escape
from homeserver.storage.timeline.events import EventRow, Refusal, StoredVerdict
from homeserver.storage.timeline.rechecks import RecheckRows
from homeserver.storage.timeline.redactions import RedactedRow


class StagedEvent(msgspec.Struct, frozen=True):
    """One event with the rows of its commit."""

    event: Event
    row: EventRow  # without its position in the log, which the commit decides
    entry: EventEntry | None = None  # None: not released to clients
    view: RoomView | None = None  # the room after it; None: unchanged
    snapshots: tuple[SnapshotRow, ...] = ()
    changes: tuple[StateChange, ...] = ()
    servers_joined: tuple[ServerName, ...] = ()
    servers_left: tuple[ServerName, ...] = ()
    transaction: tuple[TransactionKey, bytes] | None = None  # with the hash it is stored under
    redacting: tuple[Redacting, ...] = ()
    waits_for_target: EventId | None = None
    missing_parents: tuple[EventId, ...] = ()
    is_awaited: bool = False  # it fills a gap: unverified events name it as their parent
    resolved: Resolved | None = None
    was_outlier: bool = False

    @property
    def changes_other_state(self) -> bool:
        """Returns whether current state changes other than by this event itself."""
        return any(change.event_id != self.event.event_id for change in self.changes)

    @property
    def is_plain(self) -> bool:
        """Returns whether it is a new row that changes neither state nor other rows (a message)."""
        return not (
            self.snapshots
            or self.changes
            or self.redacting
            or self.waits_for_target
            or self.missing_parents
            or self.is_awaited
            or self.resolved
            or self.was_outlier
            or self.row.unverified
        )


class ImportedMembers(msgspec.Struct, frozen=True):
    """The members that a join imports beside its own event, and the servers in the room."""

    members: Sequence[tuple[str, StateRef]]
    servers: Sequence[str]


class Resolved(msgspec.Struct, frozen=True):
    """A resolution that changed current state other than by the newest event itself: the snapshots
    of the current state before and after, and the branches, each an event with the snapshot of the
    state after it. All of them are stored with the event, or before it."""

    made_ms: int
    state_before: int
    state_after: int
    branches: tuple[tuple[EventId, int], ...]


class Correction(msgspec.Struct, frozen=True):
    """The effects of rechecked verdicts: changes of stored events, and of the room."""

    view: RoomView | None = None  # the room after it; None: unchanged
    entry: StateEntry | None = None
    rows: Sequence[EventRow] = ()
    snapshots: Sequence[SnapshotRow] = ()
    servers_joined: Sequence[ServerName] = ()
    servers_left: Sequence[ServerName] = ()
    resolved: Resolved | None = None
    cause: EventId | None = None  # the first event with a changed verdict or state
    redacting: Sequence[Redacting] = ()
    rechecks: RecheckRows = msgspec.field(default_factory=RecheckRows)


@dataclass(slots=True)
class RoomUnit:
    """Staged events of one room, and the changes that commit with them."""

    room: Room
    generation: int
    staged: Sequence[StagedEvent]
    unit: Unit
    done: asyncio.Future[Committed]
    is_new: bool = False  # this unit writes the room's rows
    correction: Correction | None = None  # comes before the staged events
    imported: ImportedMembers | None = None
    is_late: bool = False  # the waiter was told that the outcome isn't known yet
    committed: Callable[[RoomUnit], None] | None = None
    failed: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of an event before it has a place: its origin and verdict, and which gaps it
    opens or fills."""

    to_federate: bool
    unverified: bool = False
    transaction: tuple[TransactionKey, bytes] | None = None
    verdict: StoredVerdict = StoredVerdict.ACCEPTED
    refusal: Refusal | None = None
    missing_parents: tuple[EventId, ...] = ()
    is_awaited: bool = False  # it fills a gap: unverified events name it as their parent
    was_outlier: bool = False
    replaces_heads: bool = False  # a rejoin: the stored heads are out of date


def state_ref(event: Event, row_id: int) -> StateRef:
    """Returns the entry of state maps for a state event."""
    return StateRef(event.event_id, row_id, membership_of(event))


def replaced_by(event: Event, before: StateSnapshot) -> EventId | None:
    """Returns the event that a state event replaces by its own branch, not by the current state:
    clients are told what its sender replaced."""
    replaced = before.state.get(event.key) if event.state_key is not None else None
    return replaced.event_id if replaced else None


def event_row(
    event: Event,
    row_id: int,
    room: Room,
    states: tuple[StateSnapshot, StateSnapshot],
    origin: Origin,
    *,
    live_index: int | None = None,
    replaces: EventId | None = None,
) -> EventRow:
    """Returns the row of an event whose `states` before and after it are known; with `live_index`
    at this place of the room's order, else without one."""
    transaction = origin.transaction[0] if origin.transaction else None
    before, after = states
    relation = relation_columns(event)
    return EventRow(
        room_row_id=room.row_id,
        event_row_id=row_id,
        event_id=event.event_id,
        type=escape(event.type),
        state_key=None if event.state_key is None else escape(event.state_key),
        sender=event.sender,
        membership=membership_of(event),
        position=None,
        live_index=live_index,
        gap_index=None if live_index is None else 0,
        verdict=origin.verdict,
        reason=None if origin.refusal is None else origin.refusal.reason,
        rule=None if origin.refusal is None else origin.refusal.rule,
        outlier=False,
        unverified=origin.unverified,
        to_federate=origin.to_federate,
        snapshot_before=before.chain[-1].row_id,
        snapshot_after=after.chain[-1].row_id,
        replaces=replaces,
        redacted_by=None,
        transaction_of=None
        if transaction is None
        else f"{transaction.device_id}\n{transaction.transaction_id}",
        json=event.raw,
        relates_to=relation.relates_to,
        rel_type=relation.rel_type,
        edited_ms=relation.edited_ms,
        sent_ms=event.origin_server_ts,
    )


def store_as_outlier(
    event: Event,
    row_id: int,
    room: Room,
    before: StateSnapshot,
    origin: Origin,
    *,
    snapshots: tuple[SnapshotRow, ...] = (),
) -> tuple[StagedEvent, StateSnapshot]:
    """Returns a soft-failed or rejected event: stored with its verdict, without a place. A
    soft-failed state event has a state after it, since later events may name it as their parent.
    `snapshots`: those to write of the state before it."""
    after = before
    if event.is_state and origin.verdict == StoredVerdict.SOFT_FAILED:
        after, rows = after_state_event(event, row_id, room, before)
        snapshots += rows
    row = event_row(event, row_id, room, (before, after), origin)
    staged = StagedEvent(
        event,
        row,
        snapshots=snapshots,
        missing_parents=origin.missing_parents,
        is_awaited=origin.is_awaited,
        was_outlier=origin.was_outlier,
    )
    return staged, after


def after_state_event(
    event: Event, row_id: int, room: Room, before: StateSnapshot
) -> tuple[StateSnapshot, tuple[SnapshotRow, ...]]:
    """Returns the state after an accepted state event, and the snapshot to write. The event's own
    row number serves as the snapshot's."""
    change: Delta = {event.key: state_ref(event, row_id)}
    return extended(room.row_id, before, change, row_id)


def state_changes(old: StateMap, change: Delta) -> tuple[StateChange, ...]:
    """Returns a change of current state in the log's form, without unchanged keys."""
    changes = []
    for key, ref in change.items():
        former = old.get(key)
        if former != ref:
            changes.append(
                StateChange(
                    key,
                    ref.event_id if ref else None,
                    ref.membership if ref else None,
                    former.membership if former else None,
                )
            )
    return tuple(changes)


class MemberCounts:
    """Counts of a room's members and servers, updated as a change is applied."""

    def __init__(self, view: RoomView) -> None:
        self.joined, self.invited, self.servers = view.joined, view.invited, view.servers
        self._before = view.servers
        self._touched: dict[ServerName, None] = {}

    @property
    def servers_joined(self) -> list[ServerName]:
        """Returns the servers that had no user in the room before, and have one now."""
        return [one for one in self._touched if one in self.servers and one not in self._before]

    @property
    def servers_left(self) -> list[ServerName]:
        """Returns the servers that had a user in the room before, and have none now."""
        return [one for one in self._touched if one in self._before and one not in self.servers]

    def apply(self, old: StateMap, changes: Sequence[StateChange]) -> None:
        """Counts the changes of members among `changes`; `old` is the state before them."""
        for change in changes:
            if change.key[0] != event_types.MEMBER:
                continue
            before = old.get(change.key)
            was = before.membership if before else None
            self.joined += (change.membership == "join") - (was == "join")
            self.invited += (change.membership == "invite") - (was == "invite")
            if (was == "join") != (change.membership == "join"):
                self._server(server_of(change.key[1]), 1 if was != "join" else -1)

    def _server(self, server: ServerName, step: int) -> None:
        count = self.servers.get(server, 0) + step
        self._touched[server] = None
        if count > 0:
            self.servers = self.servers.set(server, count)
        else:
            self.servers = self.servers.delete(server)


@dataclass(frozen=True, slots=True)
class EventStates:
    """The states around an event that gets a place: before and after it, by its own branch, and
    the room's current one from then on."""

    before: StateSnapshot
    after: StateSnapshot
    current: StateSnapshot


def append_to_timeline(
    event: Event,
    row_id: int,
    room: Room,
    *,
    states: EventStates,
    origin: Origin,
    snapshots: tuple[SnapshotRow, ...] = (),
    is_head: bool = True,
) -> StagedEvent:
    """Returns an accepted event at the room's newest place."""
    before, after, current, old = states.before, states.after, states.current, room.staged
    # The usual case: the event follows the only head, so no states have to be compared.
    if current.state is after.state and before.state is old.state:
        change: Delta = {event.key: state_ref(event, row_id)} if event.is_state else {}
    else:
        change = change_between(old.chain, current.chain)
    changes = state_changes(old.state, change)
    live_index, replaces = old.live_index + 1, replaced_by(event, before)
    row = event_row(
        event, row_id, room, (before, after), origin, live_index=live_index, replaces=replaces
    )
    head = Head(event.event_id, row_id, event.depth, after.state, after.chain)
    kept = () if origin.replaces_heads else other_heads(old, event)
    counts = MemberCounts(old)
    if changes:
        counts.apply(old.state, changes)
    view = RoomView(
        current.state,
        current.chain,
        (*kept, head) if is_head else kept,
        live_index,
        counts.joined,
        counts.invited,
        counts.servers,
    )
    entry = EventEntry(
        room_id=room.room_id,
        event=event,
        row_id=row_id,
        order=(live_index, 0),
        kept_client=kept_client(event),
        changes=changes,
        transaction=origin.transaction[0] if origin.transaction else None,
        replaces=replaces,
        to_federate=origin.to_federate,
        snapshot_after=after.chain[-1].row_id,
    )
    return StagedEvent(
        event,
        row,
        entry,
        view,
        snapshots,
        changes,
        tuple(counts.servers_joined),
        tuple(counts.servers_left),
        origin.transaction,
        missing_parents=origin.missing_parents,
        is_awaited=origin.is_awaited,
        was_outlier=origin.was_outlier,
    )


def other_heads(view: RoomView, event: Event) -> tuple[Head, ...]:
    """Returns the heads that remain beside a new event. Past a bound, older ones whose state a
    newer one has too go first: they add nothing to the room's state, and a flood of them would
    never be merged. Then the oldest go (`lets_heads_go`)."""
    kept = tuple(one for one in view.heads if one.event_id not in event.prev_events)
    if len(kept) < limits.HEADS_KEPT:
        return kept
    # The newest head with a state replaces the older ones with the same state.
    newest = {one.chain[-1].row_id: one.row_id for one in kept}
    older, recent = kept[: -limits.HEADS_PER_EVENT], kept[-limits.HEADS_PER_EVENT :]
    kept = (*(one for one in older if newest[one.chain[-1].row_id] == one.row_id), *recent)
    return kept[-(limits.HEADS_KEPT - 1) :]


def lets_heads_go(view: RoomView, event: Event, others: Sequence[Head]) -> bool:
    """Returns whether heads that differ in state are dropped only because of the bound. The room's
    present state then replaces them, as if an event had merged them: otherwise a flood of heads
    could erase their state."""
    states = {one.chain[-1].row_id for one in others}
    return any(
        one.event_id not in event.prev_events and one.chain[-1].row_id not in states
        for one in view.heads
    )


def empty_view(first_row_id: int) -> RoomView:
    """Returns the view of a room before its create event."""
    empty: StateMap = immutables.Map()
    no_servers: immutables.Map[ServerName, int] = immutables.Map()
    return RoomView(empty, first_chain(first_row_id, {}), (), 0, 0, 0, no_servers)


def changed_view(
    old: RoomView, current: StateSnapshot, heads: tuple[Head, ...]
) -> tuple[RoomView, tuple[StateChange, ...], MemberCounts]:
    """Returns a room whose heads or their states were corrected, without a new event; with the
    changes of its current state, and of its member counts."""
    changes = state_changes(old.state, change_between(old.chain, current.chain))
    counts = MemberCounts(old)
    counts.apply(old.state, changes)
    view = RoomView(
        current.state,
        current.chain,
        heads,
        old.live_index,
        counts.joined,
        counts.invited,
        counts.servers,
        old.position,
    )
    return view, changes, counts


def redacted_rows(room_row_id: int, redacting: Iterable[Redacting]) -> list[RedactedRow]:
    """Returns the rows to write of redacted events."""
    return [
        RedactedRow(room_row_id, one.target.event_id, one.target.raw, one.redaction)
        for one in redacting
    ]


def heads_row(room: Room, view: RoomView, position: int) -> tuple[int, list[int], int, int, int]:
    """Returns the row of `storage.rooms.rooms.set_heads`."""
    return (
        room.row_id,
        [head.row_id for head in view.heads],
        view.chain[-1].row_id,
        view.live_index,
        position,
    )
