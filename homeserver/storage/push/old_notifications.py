"""Lets go of events that notified somebody, in `push_events`: of each room the newest stay.

Rules:
1. Counts don't change by it, nor what is read. A user who is further behind in a room, and reads a
   part of it, is counted from the oldest event that is kept; a redacted event that isn't kept stays
   in the counts until it is read.
2. What isn't in the stored counts yet, and what is owed to a pusher, stays.
3. Of a room that this server has left nothing stays: who comes back is counted from then on.

Spec: client-server API, "Receiving notifications", GET /notifications.
"""

from __future__ import annotations

import msgspec

from federation.events.ids import RoomId, ServerName
from homeserver import limits
from homeserver.storage.database import Database

_ROOMS = "SELECT room_id FROM push_rooms WHERE room_id > $1 ORDER BY room_id LIMIT $2"
_SPAN = "(SELECT {of}(live_index) FROM push_events WHERE room_id = r.room_id)"
_EXCESS = f"""
DELETE FROM push_events e USING (
    SELECT r.room_id, r.is_pending, r.summed_to,
        (SELECT live_index FROM push_events WHERE room_id = r.room_id
            ORDER BY live_index DESC OFFSET $2 LIMIT 1) AS last
    FROM push_rooms r WHERE r.room_id = ANY($1::text[])
        AND {_SPAN.format(of="max")} - {_SPAN.format(of="min")} >= $2
) AS old
WHERE e.room_id = old.room_id AND e.live_index <= old.last
    AND NOT (old.is_pending AND e.live_index > old.summed_to)
    AND NOT EXISTS (SELECT FROM owed_pushes o WHERE o.event_id = e.event_id)
"""
"""A room whose newest such event is near its oldest has few: not all of its events notify."""

_LEFT = """
DELETE FROM push_events e WHERE e.room_id = ANY($1::text[]) AND NOT EXISTS
    (SELECT FROM rooms JOIN room_servers s USING (room_row_id) WHERE rooms.room_id = e.room_id
        AND s.server = $2 AND s.left_position IS NULL)
"""


class NotifiedRooms(msgspec.Struct, frozen=True):
    """Some rooms with notifications; `last` is where the next ones begin, None at the end."""

    room_ids: list[RoomId]
    last: RoomId | None


class OldNotificationTable:
    """The events of rooms that notified somebody, and are old."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        self._database, self._server_name = database, server_name

    async def rooms(self, after: RoomId) -> NotifiedRooms:
        """Returns the next rooms in order, at most `PUSH_ROOMS_PRUNED_AT_ONCE`."""
        most = limits.PUSH_ROOMS_PRUNED_AT_ONCE
        rows = await self._database.fetch(_ROOMS, after, most)
        room_ids = [RoomId(row[0]) for row in rows]
        return NotifiedRooms(room_ids, room_ids[-1] if len(room_ids) == most else None)

    async def prune(self, rooms: NotifiedRooms, *, kept: int) -> None:
        """Deletes all but the newest of each room, and all of rooms that this server has left."""
        await self._database.execute(_LEFT, rooms.room_ids, self._server_name)
        await self._database.execute(_EXCESS, rooms.room_ids, kept)
