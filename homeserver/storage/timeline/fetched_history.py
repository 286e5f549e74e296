"""Events that aren't committed by the log, each write in one transaction over several tables:
outliers, and fetched history that fills a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.rooms import rooms, snapshots
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.timeline import events, gaps, rechecks, redactions, search
from homeserver.storage.timeline.events import EventRow
from homeserver.storage.timeline.rechecks import RecheckRows
from homeserver.storage.timeline.redactions import RedactedRow


class Filled(msgspec.Struct, frozen=True):
    """The rows that fill a gap: events, snapshots, the gaps that are left below as (missing event,
    live_index, gap_index of the event that names it), the events to verify, events that redactions
    change, redactions that wait as (room_row_id, target, redaction), fetched history that moves as
    (event, live_index, gap_index)."""

    rows: Sequence[EventRow]
    snapshots: Sequence[SnapshotRow]
    gaps: Sequence[tuple[str, int, int]]
    rechecks: RecheckRows
    redacted: Sequence[RedactedRow] = ()
    awaited: Sequence[tuple[int, str, str]] = ()
    moved: Sequence[tuple[str, int, int]] = ()


class FetchedHistory:
    """The writes of events that other servers gave when asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store_outliers(
        self, room: tuple[int, str, str], make: Callable[[int], Iterable[EventRow]]
    ) -> int:
        """Ensures that a room exists (see `rooms.ensure`) and stores the outliers that `make` makes
        for its number; existing ones stay. Returns the number."""
        async with self._database.transaction() as connection:
            room_row_id = await rooms.ensure(connection, *room)
            is_new = not await events.has_any(connection, room_row_id)
            if is_new and await events.copy_new(connection, _chunks(make(room_row_id))):
                return room_row_id
            for chunk in _chunks(make(room_row_id)):
                await events.insert_outliers(connection, chunk)
        return room_row_id

    async def backfill(self, room_row_id: int, event_ids: Sequence[str], filled: Filled) -> None:
        """Assigns places to fetched history, and closes the gaps that `event_ids` left."""
        async with self._database.transaction() as connection:
            await snapshots.insert(connection, filled.snapshots)
            await events.insert(connection, filled.rows)
            await search.add_waiting(connection, filled.rows)
            if filled.moved:
                await events.move(connection, filled.moved)
            await gaps.close(connection, room_row_id, event_ids)
            if filled.gaps:
                await gaps.insert(connection, [(room_row_id, *one) for one in filled.gaps])
            await redactions.write(connection, filled.redacted, filled.awaited)
            await rechecks.write(connection, filled.rechecks)


def _chunks(rows: Iterable[EventRow]) -> Iterator[list[EventRow]]:
    left = iter(rows)
    while chunk := list(islice(left, limits.ROWS_WRITTEN_AT_ONCE)):
        yield chunk
