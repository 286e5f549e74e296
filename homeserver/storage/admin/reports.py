"""The table `reports`: what users reported to the operator."""

from __future__ import annotations

import msgspec

from federation.events.ids import UserId
from homeserver.storage.database import Database


class NewReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report to store: of an event in a room, of a room, or of a user."""

    reporter: UserId
    room_id: str | None = None
    event_id: str | None = None
    user_id: str | None = None
    reason: str
    created_ms: int

    @property
    def kind(self) -> str:
        """What is reported, as the column names it."""
        if self.event_id is not None:
            return "event"
        return "room" if self.room_id is not None else "user"


class ReportRow(msgspec.Struct, frozen=True):
    """A report, as the operator sees it."""

    report_id: int
    kind: str
    reporter: UserId
    room_id: str | None
    event_id: str | None
    user_id: str | None
    reason: str
    created_ms: int
    resolved_ms: int | None
    note: str | None


_COLUMNS = (
    "report_id, kind, reporter, room_id, event_id, user_id, reason, created_ms, resolved_ms, note"
)


class ReportTable:
    """The reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: NewReport, *, open_max: int) -> bool:
        """Stores a report. Returns False if the reporter has `open_max` open ones."""
        found = await self._database.fetchval(
            "INSERT INTO reports"
            " (kind, reporter, room_id, event_id, user_id, reason, created_ms)"
            " SELECT $1, $2, $3, $4, $5, $6, $7 WHERE (SELECT count(*) FROM reports"
            " WHERE reporter = $2 AND resolved_ms IS NULL) < $8 RETURNING true",
            new.kind,
            new.reporter,
            new.room_id,
            new.event_id,
            new.user_id,
            new.reason,
            new.created_ms,
            open_max,
        )
        return bool(found)

    async def page(self, after: int, limit: int, *, open_only: bool) -> list[ReportRow]:
        """Returns reports with numbers past `after`, in order."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM reports WHERE report_id > $1"
            " AND (NOT $3 OR resolved_ms IS NULL) ORDER BY report_id LIMIT $2",
            after,
            limit,
            open_only,
        )
        return [ReportRow(*row) for row in rows]

    async def resolve(self, report_id: int, note: str | None, now_ms: int) -> bool:
        """Closes an open report; False if there is none of this number."""
        found = await self._database.fetchval(
            "UPDATE reports SET resolved_ms = $2, note = $3"
            " WHERE report_id = $1 AND resolved_ms IS NULL RETURNING true",
            report_id,
            now_ms,
            note,
        )
        return bool(found)

    async def delete_resolved(self, before_ms: int) -> None:
        """Deletes reports that were resolved before a time."""
        await self._database.execute("DELETE FROM reports WHERE resolved_ms < $1", before_ms)
