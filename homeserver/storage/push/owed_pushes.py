"""Notifications of users who have pushers, until all of these were told. Owns `owed_pushes`.

A notification is unread until its user has read its thread, or the whole room, up to it
(`push_reads`). One of an event that isn't among those that count as unread (an invite) is unread
for as long as it is owed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId, RoomId, UserId
from homeserver.storage.database import Database


class OwedPush(msgspec.Struct, frozen=True):
    """A notification of a user. `actions` are those of the rule (JSON)."""

    position: int
    room_id: RoomId
    event_id: EventId
    actions: bytes
    owed_ms: int = 0


class NewPush(msgspec.Struct, frozen=True):
    """A notification to store, with its user."""

    user_id: UserId
    push: OwedPush


_COLUMNS = "o.position, o.room_id, o.event_id, o.actions, o.owed_ms"
_UNREAD = (
    " FROM owed_pushes o LEFT JOIN push_events e ON e.event_id = o.event_id"
    " WHERE o.user_id = $1 AND o.position > $2 AND o.owed_ms > $3 AND NOT EXISTS"
    " (SELECT FROM push_reads r WHERE r.room_id = o.room_id AND r.user_id = o.user_id"
    "  AND r.thread IN ('', e.thread) AND r.read_to >= e.live_index)"
)


class OwedPushTable:
    """The notifications of local users who have pushers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, pushes: Sequence[NewPush]) -> None:
        """Stores notifications; known ones are left as they are."""
        await self._database.execute(
            "INSERT INTO owed_pushes (user_id, position, room_id, event_id, actions, owed_ms)"
            " SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bytea[],"
            " $6::bigint[]) ON CONFLICT DO NOTHING",
            [one.user_id for one in pushes],
            [one.push.position for one in pushes],
            [one.push.room_id for one in pushes],
            [one.push.event_id for one in pushes],
            [one.push.actions for one in pushes],
            [one.push.owed_ms for one in pushes],
        )

    async def unread(
        self, user_id: UserId, *, after: int, since_ms: int, limit: int
    ) -> list[OwedPush]:
        """Returns the first unread notifications past a position and a time, in order."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS}{_UNREAD} ORDER BY o.position LIMIT $4",
            user_id,
            after,
            since_ms,
            limit,
        )
        return [OwedPush(*row) for row in rows]

    async def newest_of_rooms(
        self, user_id: UserId, *, after: int, up_to: int | None, since_ms: int, limit: int
    ) -> list[OwedPush]:
        """Returns the newest unread notification of each room, up to a position: those of the rooms
        with the newest ones, in order."""
        rows = await self._database.fetch(
            "SELECT position, room_id, event_id, actions, owed_ms FROM ("
            f" SELECT DISTINCT ON (o.room_id) {_COLUMNS}{_UNREAD}"
            " AND ($4::bigint IS NULL OR o.position <= $4) ORDER BY o.room_id, o.position DESC) n"
            " ORDER BY position DESC LIMIT $5",
            user_id,
            after,
            since_ms,
            up_to,
            limit,
        )
        return [OwedPush(*row) for row in reversed(rows)]

    async def lagging(self, *, since_ms: int) -> list[tuple[UserId, int]]:
        """Returns the pushers (with their users) that weren't told of all that is stored for them,
        and those whose last push failed."""
        rows = await self._database.fetch(
            "SELECT p.user_id, p.pusher_id FROM pushers p WHERE retry_at_ms IS NOT NULL OR EXISTS"
            " (SELECT FROM owed_pushes o WHERE o.user_id = p.user_id AND o.position > p.cursor"
            "  AND o.owed_ms > $1) ORDER BY p.pusher_id",
            since_ms,
        )
        return [(UserId(row[0]), row[1]) for row in rows]

    async def prune(self, *, before_ms: int) -> None:
        """Deletes what all pushers of its user were told of, and what is older than a time."""
        await self._database.execute(
            "DELETE FROM owed_pushes o WHERE o.owed_ms < $1 OR NOT EXISTS"
            " (SELECT FROM pushers p WHERE p.user_id = o.user_id AND p.cursor < o.position)",
            before_ms,
        )
