"""The events of a room by when they say that they were sent, which may be in no order.

Spec: client-server API, GET /timestamp_to_event.
"""

from __future__ import annotations

import msgspec

from federation.events.ids import EventId, RoomId
from homeserver.storage.database import Database


class TimedEventRow(msgspec.Struct, frozen=True, gc=False):
    """An event with a place in its room's order, and when it was sent."""

    event_id: EventId
    sent_ms: int
    live_index: int
    gap_index: int

    @property
    def order(self) -> tuple[int, int]:
        """Its place."""
        return self.live_index, self.gap_index


_COLUMNS = "event_id, sent_ms, live_index, gap_index"
_FORWARDS = (
    f"SELECT {_COLUMNS} FROM events WHERE room_row_id = (SELECT room_row_id FROM rooms"
    " WHERE room_id = $1) AND live_index IS NOT NULL"
    " AND (sent_ms, live_index, gap_index) > ($2, $3, $4)"
    " ORDER BY sent_ms, live_index, gap_index LIMIT $5"
)
_BACKWARDS = (
    f"SELECT {_COLUMNS} FROM events WHERE room_row_id = (SELECT room_row_id FROM rooms"
    " WHERE room_id = $1) AND live_index IS NOT NULL"
    " AND (sent_ms, live_index, gap_index) < ($2, $3, $4)"
    " ORDER BY sent_ms DESC, live_index DESC, gap_index DESC LIMIT $5"
)
_LOWEST, _HIGHEST = -(2**62), 2**62


class EventTimeTable:
    """Reads by time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def nearest(
        self,
        room_id: RoomId,
        time_ms: int,
        *,
        backwards: bool,
        after: TimedEventRow | None = None,
        limit: int,
    ) -> list[TimedEventRow]:
        """Returns the events at a time or before it (`backwards`), else at it or after it, the
        nearest first; past `after`, if it is given."""
        place = _HIGHEST if backwards else _LOWEST
        bound = (time_ms, place, place) if after is None else (after.sent_ms, *after.order)
        statement = _BACKWARDS if backwards else _FORWARDS
        rows = await self._database.fetch(statement, room_id, *bound, limit)
        return [TimedEventRow(*row) for row in rows]
