"""Redactions of stored events, and redactions that came before their target. Owns the table
`pending_redactions`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId
from homeserver.storage.database import Connection, Database
from homeserver.storage.push import unread
from homeserver.storage.timeline import events, search


class RedactedRow(msgspec.Struct, frozen=True):
    """A stored event that a redaction changes: its new bytes."""

    room_row_id: int
    event_id: str
    json: bytes
    redacted_by: str


class PendingRedactionRow(msgspec.Struct, frozen=True, gc=False):
    """A redaction that waits for its target."""

    room_row_id: int
    target: EventId
    redaction: EventId


async def write(
    connection: Connection,
    redacted: Sequence[RedactedRow],
    awaited: Sequence[tuple[int, str, str]],
) -> None:
    """Redacts stored events, for which no redaction waits any more, and which aren't to be counted
    or found any more; and stores the redactions (room_row_id, target, redaction) that wait."""
    for one in redacted:
        await events.redact(
            connection, one.room_row_id, one.event_id, json=one.json, redacted_by=one.redacted_by
        )
        await connection.execute(
            "DELETE FROM pending_redactions WHERE room_row_id = $1 AND target = $2",
            one.room_row_id,
            one.event_id,
        )
        await unread.note_redacted(connection, one.room_row_id, one.event_id)
        await search.remove(connection, one.event_id)
    for waiting in awaited:
        await connection.execute(
            "INSERT INTO pending_redactions VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", *waiting
        )


class PendingRedactionTable:
    """The redactions that wait."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_rooms(self, room_row_ids: Sequence[int], limit: int) -> list[PendingRedactionRow]:
        """Returns the redactions of rooms that wait for their target; at most `limit` of each
        room.
        """
        rows = await self._database.fetch(
            "SELECT p.* FROM unnest($1::bigint[]) AS u (room_row_id), LATERAL ("
            " SELECT room_row_id, target, redaction FROM pending_redactions"
            " WHERE room_row_id = u.room_row_id ORDER BY target, redaction LIMIT $2) AS p",
            list(room_row_ids),
            limit,
        )
        return [PendingRedactionRow(*row) for row in rows]

    async def waiting_for(self, room_row_id: int, target: str) -> list[EventId]:
        """Returns the redactions that wait for an event."""
        rows = await self._database.fetch(
            "SELECT redaction FROM pending_redactions WHERE room_row_id = $1"
            " AND target = $2 ORDER BY redaction",
            room_row_id,
            target,
        )
        return [row["redaction"] for row in rows]
