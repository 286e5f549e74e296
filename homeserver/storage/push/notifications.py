"""The events that a user was notified about, read from `push_events` and `push_reads`.

They are those of the rooms that the user is in, since the last join; of a user with very many
rooms, those of the rooms with the newest events.
"""

from __future__ import annotations

import msgspec

from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.rules.push.outcomes import HIGHLIGHTED, NOTIFIED
from homeserver.storage.database import Database


class NotifiedEvent(msgspec.Struct, frozen=True):
    """An event that notified a user, with its position in the log."""

    position: int
    room_id: RoomId
    event_id: EventId
    is_highlight: bool
    is_read: bool


_LEVEL = "coalesce(p.other_levels[array_position(p.other_users, $1)], p.usual)"
_PAGE = f"""
SELECT n.* FROM (
    SELECT r.room_id, m.position FROM memberships m
    JOIN rooms r USING (room_row_id) JOIN room_heads h USING (room_row_id)
    WHERE m.user_id = $1 AND m.membership = 'join' AND h.position > m.position
    ORDER BY h.position DESC LIMIT $5
) r CROSS JOIN LATERAL (
    SELECT e.position, p.room_id, p.event_id, {_LEVEL} = 2 AS is_highlight,
        EXISTS (SELECT FROM push_reads s WHERE s.room_id = p.room_id AND s.user_id = $1
            AND s.thread IN ('', p.thread) AND s.read_to >= p.live_index) AS is_read
    FROM push_events p JOIN events e ON e.event_id = p.event_id
    WHERE p.room_id = r.room_id AND {_LEVEL} >= $2 AND e.position > r.position
        AND ($3::bigint IS NULL OR e.position < $3)
    ORDER BY p.live_index DESC LIMIT $4
) n ORDER BY n.position DESC LIMIT $4
"""


class NotificationTable:
    """The notifications of users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, user_id: UserId, *, before: int | None, limit: int, only_highlights: bool
    ) -> list[NotifiedEvent]:
        """Returns the newest events that notified a user, before a position, the newest first."""
        rows = await self._database.fetch(
            _PAGE,
            user_id,
            HIGHLIGHTED if only_highlights else NOTIFIED,
            before,
            limit,
            limits.NOTIFICATION_ROOMS,
        )
        return [NotifiedEvent(*row) for row in rows]
