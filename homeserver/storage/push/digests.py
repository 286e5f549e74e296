"""Pushers that send mails: which are due, and what is known of them beside the others. Uses
`pushers` and `owed_pushes`."""

from __future__ import annotations

from uuid import UUID

import msgspec

from federation.events.ids import UserId
from homeserver import limits
from homeserver.rules.push.pushers import EMAIL
from homeserver.storage.database import Database
from homeserver.storage.push.pushers import IS_LOCKED


class DuePusher(msgspec.Struct, frozen=True):
    """A pusher that has unread notifications to mail. `address` is the user's; `secret` ends it by
    a link; `mails` were sent in a row, the last one at `mailed_ms`."""

    pusher_id: int
    user_id: UserId
    address: str
    secret: str
    cursor: int
    mails: int
    mailed_ms: int
    failures: int


class DigestTable:
    """Pushers of the kind `email`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, *, now_ms: int, owed_before_ms: int) -> list[DuePusher]:
        """Returns pushers that may send a mail now, and have a notification that is older than a
        time and unread: at most `DIGESTS_AT_ONCE`."""
        rows = await self._database.fetch(
            "SELECT pusher_id, user_id, pushkey, secret::text, cursor, mails, mailed_ms, failures"
            f" FROM pushers p WHERE kind = $1 AND NOT {IS_LOCKED.format(pushers='p')}"
            " AND coalesce(retry_at_ms, 0) <= $2 AND EXISTS"
            " (SELECT FROM owed_pushes o LEFT JOIN push_events e ON e.event_id = o.event_id"
            "  WHERE o.user_id = p.user_id AND o.position > p.cursor AND o.owed_ms <= $3"
            "  AND NOT EXISTS (SELECT FROM push_reads r WHERE r.room_id = o.room_id"
            "   AND r.user_id = o.user_id AND r.thread IN ('', e.thread)"
            "   AND r.read_to >= e.live_index)) ORDER BY pusher_id LIMIT $4",
            EMAIL,
            now_ms,
            owed_before_ms,
            limits.DIGESTS_AT_ONCE,
        )
        return [DuePusher(*row) for row in rows]

    async def note_mailed(
        self, pusher_id: int, *, cursor: int, mails: int, now_ms: int, retry_at_ms: int
    ) -> None:
        """Stores that a mail was sent that has everything up to a position."""
        await self._database.execute(
            "UPDATE pushers SET cursor = $2, mails = $3, mailed_ms = $4, retry_at_ms = $5,"
            " failures = 0, failing_since_ms = NULL WHERE pusher_id = $1",
            pusher_id,
            cursor,
            mails,
            now_ms,
            retry_at_ms,
        )

    async def note_failed(self, pusher_id: int, *, cursor: int, retry_at_ms: int) -> None:
        """Stores that a mail wasn't taken."""
        await self._database.execute(
            "UPDATE pushers SET cursor = $2, failures = failures + 1, retry_at_ms = $3"
            " WHERE pusher_id = $1",
            pusher_id,
            cursor,
            retry_at_ms,
        )

    async def delete(self, pusher_id: int) -> None:
        """Deletes a pusher whose address isn't the user's any more."""
        await self._database.execute("DELETE FROM pushers WHERE pusher_id = $1", pusher_id)

    async def find_address(self, secret: UUID) -> str | None:
        """Returns the address of the pusher with a secret."""
        found: str | None = await self._database.fetchval(
            "SELECT pushkey FROM pushers WHERE secret = $1 AND kind = $2", secret, EMAIL
        )
        return found

    async def unsubscribe(self, secret: UUID) -> bool:
        """Deletes the pusher with a secret; False if there is none."""
        found = await self._database.fetchval(
            "DELETE FROM pushers WHERE secret = $1 AND kind = $2 RETURNING true", secret, EMAIL
        )
        return bool(found)
