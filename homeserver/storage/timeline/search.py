"""The index of messages. Owns `search_events`, `search_position` and `search_waiting`.

Rules:
1. Everything up to the position is in the index, and everything that has none but waits.
2. A redacted event leaves the index with its redaction, in one transaction; one that is being
   redacted doesn't come into it.

Spec: client-server API, "Server Side Search".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.rules.timeline.message_search import SEARCHED_TYPES, MessageQuery
from homeserver.rules.timeline.search_requests import SearchPlace
from homeserver.storage.database import Connection, Database
from homeserver.storage.timeline.events import EventRow

_TYPES = list(SEARCHED_TYPES)


class UnindexedRow(msgspec.Struct, frozen=True):
    """An event that may belong into the index, unparsed."""

    room_row_id: int
    event_row_id: int
    type: str
    is_state: bool
    json: bytes


class SearchEntry(msgspec.Struct, frozen=True):
    """What the index has of an event."""

    room_row_id: int
    event_row_id: int
    sent_ms: int
    terms: Sequence[str]


class FoundRow(msgspec.Struct, frozen=True):
    """An event that the index found."""

    place: SearchPlace
    room_id: RoomId
    event_id: EventId


class SearchScope(msgspec.Struct, frozen=True):
    """Where is searched: the rooms, the senders (None: all), the types."""

    rooms: Sequence[RoomId]
    senders: Sequence[UserId] | None
    types: Sequence[str]


async def add_waiting(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Has events indexed that get no position in the log."""
    found = [row for row in rows if row.type in SEARCHED_TYPES]
    if not found:
        return
    await connection.execute(
        "INSERT INTO search_waiting (room_row_id, event_row_id) SELECT room_row_id, event_row_id"
        " FROM events WHERE event_id = ANY($1::text[]) ON CONFLICT DO NOTHING",
        [row.event_id for row in found],
    )


async def remove(connection: Connection, event_id: str) -> None:
    """Removes a redacted event from the index."""
    await connection.execute(
        "DELETE FROM search_events s USING events e WHERE e.event_id = $1"
        " AND s.room_row_id = e.room_row_id AND s.event_row_id = e.event_row_id",
        event_id,
    )


class SearchTable:
    """The index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def position(self) -> int:
        """Returns the position of the log up to which events are indexed."""
        found: int = await self._database.fetchval(
            "SELECT coalesce((SELECT position FROM search_position), 0)"
        )
        return found

    async def unindexed(self, *, after: int, up_to: int) -> list[UnindexedRow]:
        """Returns the events with after < position <= up_to that may belong into the index."""
        rows = await self._database.fetch(
            "SELECT room_row_id, event_row_id, type, state_key IS NOT NULL, json FROM events"
            " WHERE position > $1 AND position <= $2 AND type = ANY($3::text[])",
            after,
            up_to,
            _TYPES,
        )
        return [UnindexedRow(*row) for row in rows]

    async def waiting(self) -> list[UnindexedRow]:
        """Returns events that wait to be indexed: at most `SEARCH_POSITIONS`."""
        rows = await self._database.fetch(
            "SELECT room_row_id, event_row_id, type, state_key IS NOT NULL, json"
            " FROM (SELECT room_row_id, event_row_id FROM search_waiting LIMIT $1) w"
            " JOIN events USING (room_row_id, event_row_id)",
            limits.SEARCH_POSITIONS,
        )
        return [UnindexedRow(*row) for row in rows]

    async def store(self, entries: Sequence[SearchEntry], *, position: int) -> None:
        """Writes entries, and that everything up to a position is indexed."""
        async with self._database.transaction() as connection:
            await _insert(connection, entries)
            await connection.execute(
                "INSERT INTO search_position (position) VALUES ($1)"
                " ON CONFLICT (is_only) DO UPDATE SET position = excluded.position",
                position,
            )

    async def store_waiting(
        self, entries: Sequence[SearchEntry], done: Sequence[UnindexedRow]
    ) -> None:
        """Writes entries of events that waited; `done` wait no more."""
        async with self._database.transaction() as connection:
            await _insert(connection, entries)
            await connection.execute(
                "DELETE FROM search_waiting USING unnest($1::bigint[], $2::bigint[]) AS u (r, e)"
                " WHERE room_row_id = r AND event_row_id = e",
                [row.room_row_id for row in done],
                [row.event_row_id for row in done],
            )

    async def find(
        self, query: MessageQuery, scope: SearchScope, *, before: SearchPlace | None, limit: int
    ) -> list[FoundRow]:
        """Returns events that have the query's terms, newest first, below a place."""
        place = before or SearchPlace(2**63 - 1, 0)
        rows = await self._database.fetch(
            "SELECT f.sent_ms, f.event_row_id, r.room_id, e.event_id FROM ("
            f"SELECT room_row_id, event_row_id, sent_ms {_MATCHING}"
            " AND (sent_ms, event_row_id) < ($5, $6)"
            " ORDER BY sent_ms DESC, event_row_id DESC LIMIT $7) f"
            " JOIN rooms r USING (room_row_id) JOIN events e USING (room_row_id, event_row_id)"
            " ORDER BY f.sent_ms DESC, f.event_row_id DESC",
            *_values(query, scope),
            place.sent_ms,
            place.event_row_id,
            limit,
        )
        return [FoundRow(SearchPlace(row[0], row[1]), row[2], row[3]) for row in rows]


_MATCHING = (
    "FROM search_events WHERE terms @@ $1::text::tsquery AND room_row_id = ANY"
    " (ARRAY(SELECT room_row_id FROM rooms WHERE room_id = ANY($2::text[])))"
    " AND ($3::text[] IS NULL OR sender = ANY($3::text[])) AND type = ANY($4::text[])"
)


def _values(query: MessageQuery, scope: SearchScope) -> tuple[object, ...]:
    senders = None if scope.senders is None else list(scope.senders)
    return _tsquery(query), list(scope.rooms), senders, list(scope.types)


def _tsquery(query: MessageQuery) -> str:
    """Returns the query in PostgreSQL's words. Terms have letters, digits and symbols alone: none
    has a meaning within quotes."""
    terms = [f"'{term}'" for term in query.exact_terms]
    return " & ".join([*terms, *(f"'{prefix}':*" for prefix in query.prefixes)])


async def _insert(connection: Connection, entries: Sequence[SearchEntry]) -> None:
    """Writes entries but of events that are redacted: a redaction that is being committed waits for
    this transaction, or this one for it."""
    if not entries:
        return
    await connection.execute(
        "INSERT INTO search_events (room_row_id, event_row_id, sent_ms, sender, type, terms)"
        " SELECT room_row_id, event_row_id, u.sent_ms, e.sender, e.type,"
        " array_to_tsvector(string_to_array(u.terms, ' '))"
        " FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])"
        " AS u (room_row_id, event_row_id, sent_ms, terms)"
        " JOIN (SELECT room_row_id, event_row_id, sender, type FROM events"
        "  JOIN unnest($1::bigint[], $2::bigint[]) AS w (room_row_id, event_row_id)"
        "  USING (room_row_id, event_row_id) WHERE redacted_by IS NULL FOR SHARE OF events) e"
        " USING (room_row_id, event_row_id) ON CONFLICT DO NOTHING",
        [entry.room_row_id for entry in entries],
        [entry.event_row_id for entry in entries],
        [entry.sent_ms for entry in entries],
        [" ".join(entry.terms) for entry in entries],
    )
