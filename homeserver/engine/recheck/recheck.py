"""The recheck of one event: its stored and its correct verdict and states.

Pure; the caller resolves the states.
"""

from __future__ import annotations

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId
from homeserver.engine.log.staging import replaced_by
from homeserver.engine.rooms.snapshots import StateSnapshot
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.timeline.events import EventRow, Refusal, RoomEventRow, StoredVerdict


class Recheck(msgspec.Struct, frozen=True):
    """An event as of the verified state."""

    event: Event
    row: RoomEventRow
    before: StateSnapshot
    verdict: StoredVerdict
    refusal: Refusal | None
    is_state_same: bool
    """Whether the state before it is the stored one."""
    after: StateSnapshot | None = None
    """The state after it; None if it is the stored one, and isn't in memory."""
    snapshots: tuple[SnapshotRow, ...] = ()

    @property
    def event_id(self) -> EventId:
        """The event's ID."""
        return self.event.event_id

    @property
    def row_id(self) -> int:
        """The event's row number."""
        return self.row.event_row_id

    @property
    def is_same(self) -> bool:
        """Returns whether the stored state was true, and the verdict right."""
        return self.is_state_same and not self.is_verdict_changed

    @property
    def is_verdict_changed(self) -> bool:
        """Returns whether it changes between rejected and not rejected."""
        return self.verdict != self.row.verdict

    @property
    def is_newly_rejected(self) -> bool:
        """Returns whether it was accepted or soft-failed, and is now rejected."""
        return self.is_verdict_changed and self.verdict == StoredVerdict.REJECTED

    @property
    def is_newly_accepted(self) -> bool:
        """Returns whether it was rejected, and is now allowed."""
        return self.is_verdict_changed and self.verdict != StoredVerdict.REJECTED

    @property
    def changes_descendants(self) -> bool:
        """Returns whether the state after it has changed."""
        return not self.is_state_same or (self.is_verdict_changed and self.event.is_state)

    def corrected_row(self) -> EventRow:
        """Returns the row to write for an event that stays at its place, or is rejected and loses
        it.
        """
        after = self.after or self.before
        row = msgspec.structs.replace(
            self.row.to_write().decided(self.verdict, self.refusal),
            unverified=False,
            snapshot_before=self.before.chain[-1].row_id,
            snapshot_after=after.chain[-1].row_id,
            replaces=replaced_by(self.event, self.before),
        )
        return row.without_place() if self.verdict == StoredVerdict.REJECTED else row
