"""Received events of other servers that wait for missing events; one queue for each room.

Rules:
1. An event waits once, however often it is received; the first one's place and origin stay.
2. The queue's order is that of receipt; a postponed event goes to its end.

`InboxTable` is the InboxStore of `federation.ports`. Owns the table `inbox`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from federation.events.ids import EventId, RoomId
from federation.ports import WaitingEvent, WaitingPlace
from homeserver.storage.database import Database


class InboxTable:
    """The queues of all rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, waiting: Sequence[WaitingEvent]) -> None:
        """Adds events to their rooms' queues, in order; events that wait already stay as they are.
        Durable when it returns."""
        await self._database.execute(
            "INSERT INTO inbox (room_id, event_id, origin, pdu, version, received_ms, attempts)"
            " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[],"
            " $6::bigint[], $7::integer[]) ON CONFLICT DO NOTHING",
            [one.room_id for one in waiting],
            [one.event_id for one in waiting],
            [one.origin for one in waiting],
            [one.pdu for one in waiting],
            [one.version for one in waiting],
            [one.received_ms for one in waiting],
            [one.attempts for one in waiting],
        )

    async def listed(self) -> list[WaitingPlace]:
        """Returns the waiting events of all rooms, in order."""
        rows = await self._database.fetch(
            "SELECT event_id, room_id, origin FROM inbox ORDER BY place"
        )
        return [WaitingPlace(*row) for row in rows]

    async def load(self, room_id: RoomId, event_id: EventId) -> WaitingEvent | None:
        """Returns a waiting event; None if it doesn't wait any more."""
        row = await self._database.fetchrow(
            "SELECT event_id, room_id, origin, pdu, version, received_ms, attempts FROM inbox"
            " WHERE room_id = $1 AND event_id = $2",
            room_id,
            event_id,
        )
        return None if row is None else WaitingEvent(*row)

    async def remove(self, room_id: RoomId, event_ids: Collection[EventId]) -> None:
        """Takes events out of the queue; unknown ones are ignored."""
        await self._database.execute(
            "DELETE FROM inbox WHERE room_id = $1 AND event_id = ANY($2::text[])",
            room_id,
            list(event_ids),
        )

    async def postpone(self, room_id: RoomId, event_ids: Collection[EventId]) -> None:
        """Counts one more attempt and moves the events to the queue's end, in their order."""
        await self._database.execute(
            "UPDATE inbox SET attempts = attempts + 1, place = moved.place FROM"
            " (SELECT event_id, nextval('inbox_places') AS place FROM"
            "  (SELECT event_id FROM inbox WHERE room_id = $1 AND event_id = ANY($2::text[])"
            "   ORDER BY place) AS ordered) AS moved"
            " WHERE inbox.room_id = $1 AND inbox.event_id = moved.event_id",
            room_id,
            list(event_ids),
        )
