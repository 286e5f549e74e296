"""Reports of events, rooms and users, for the server's operator.

Rules:
1. A report of an event is taken from who is joined to its room and may see it; the refusal is the
   same whether or not there is such an event or room.
2. A report of a room or a user is taken without looking at whether they are known here: neither
   answer nor time says whether they are, and reports of what others showed the user count, too.
3. A user has at most `REPORTS_OPEN_PER_USER` open reports; beyond it they wait for the operator.

Spec: client-server API, "Reporting Content".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from federation.errors import MatrixError
from federation.events.ids import (
    EventId,
    InvalidIdentifier,
    RoomId,
    UserId,
    parse_event_id,
    parse_room_id,
    parse_user_id,
)
from federation.ports import Clock
from homeserver import limits
from homeserver.errors import invalid_param, not_found
from homeserver.services.accounts.rate_limits import limit_exceeded
from homeserver.storage.admin.reports import NewReport, ReportRow, ReportTable
from homeserver.storage.database import Database

IsSeen: TypeAlias = Callable[[UserId, RoomId, EventId], Awaitable[bool]]
"""Returns whether a user is joined to a room and may see an event in it."""


class Reports:
    """Takes users' reports."""

    def __init__(self, database: Database, clock: Clock, *, is_seen: IsSeen) -> None:
        self._reports, self._clock, self._is_seen = ReportTable(database), clock, is_seen

    async def event(self, reporter: UserId, room_id: str, event_id: str, reason: str) -> None:
        """Stores a report of an event. Raises 404 M_NOT_FOUND, 400 M_INVALID_PARAM for the reason,
        429 for too many open reports."""
        _check(reason)
        try:
            room, event = parse_room_id(room_id), parse_event_id(event_id)
        except InvalidIdentifier as error:
            raise _unseen() from error
        if not await self._is_seen(reporter, room, event):
            raise _unseen()
        await self._add(reporter, reason, room_id=room, event_id=event)

    async def room(self, reporter: UserId, room_id: str, reason: str) -> None:
        """Stores a report of a room. Raises 404 M_NOT_FOUND for what can't be a room's ID, else as
        `event`."""
        _check(reason)
        try:
            room = parse_room_id(room_id)
        except InvalidIdentifier as error:
            raise not_found("That isn't a room") from error
        await self._add(reporter, reason, room_id=room)

    async def user(self, reporter: UserId, user_id: str, reason: str) -> None:
        """Stores a report of a user. Raises as `room`."""
        _check(reason)
        try:
            user = parse_user_id(user_id)
        except InvalidIdentifier as error:
            raise not_found("That isn't a user") from error
        await self._add(reporter, reason, user_id=user)

    async def _add(self, reporter: UserId, reason: str, **what: str) -> None:
        new = NewReport(reporter=reporter, reason=reason, created_ms=self._clock.now_ms(), **what)
        if not await self._reports.add(new, open_max=limits.REPORTS_OPEN_PER_USER):
            raise limit_exceeded(limits.REPORTS_RETRY_AFTER_S)


class ReportAdministration:
    """The operator's view of the reports."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._reports, self._clock = ReportTable(database), clock

    async def all(self, *, open_only: bool = True) -> AsyncIterator[ReportRow]:
        """Yields the reports, the oldest first."""
        after = 0
        while page := await self._reports.page(
            after, limits.REPORTS_READ_AT_ONCE, open_only=open_only
        ):
            for report in page:
                yield report
            after = page[-1].report_id

    async def resolve(self, report_id: int, note: str | None) -> None:
        """Closes a report, and deletes those that were closed `REPORTS_KEPT_DAYS` ago. Raises 404
        M_NOT_FOUND."""
        now_ms = self._clock.now_ms()
        if not await self._reports.resolve(report_id, note, now_ms):
            raise not_found(f"there is no open report {report_id}")
        await self._reports.delete_resolved(now_ms - limits.REPORTS_KEPT_DAYS * 24 * 3600 * 1000)


def _check(reason: str) -> None:
    if len(reason) > limits.REPORT_REASON_CHARACTERS or "\0" in reason:
        raise invalid_param(
            f"A reason has at most {limits.REPORT_REASON_CHARACTERS} characters, and no NUL"
        )


def _unseen() -> MatrixError:
    return not_found("There is no such event, or you aren't joined to its room")
