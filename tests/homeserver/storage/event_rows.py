"""Rows of events for tests of storage."""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.storage.timeline.events import EventRow, StoredVerdict

ROOM, OTHER = 9, 8


def placed(row_id: int, event_id: str, room_row_id: int = ROOM, **changes: Any) -> EventRow:
    """A live message, whose place and position are its row number."""
    row = EventRow(
        room_row_id=room_row_id,
        event_row_id=row_id,
        event_id=event_id,
        type="m.x",
        state_key=None,
        sender="@u:a",
        membership=None,
        position=row_id,
        live_index=row_id,
        gap_index=0,
        verdict=StoredVerdict.ACCEPTED,
        reason=None,
        rule=None,
        outlier=False,
        unverified=False,
        to_federate=True,
        snapshot_before=1,
        snapshot_after=2,
        replaces=None,
        redacted_by=None,
        transaction_of=None,
        json=f"{row_id}".encode(),
    )
    return msgspec.structs.replace(row, **changes)


def outlier(row_id: int, event_id: str, room_row_id: int = ROOM, **changes: Any) -> EventRow:
    """A state event without a place."""
    nothing = dict.fromkeys(
        ("position", "live_index", "gap_index", "snapshot_before", "snapshot_after")
    )
    state = {"state_key": "k", "outlier": True, "to_federate": False}
    return placed(row_id, event_id, room_row_id, **{**nothing, **state, **changes})
