"""Reports as rows: bounded by reporter, in pages, closed once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from homeserver.storage.admin.reports import NewReport, ReportTable
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from tests.homeserver.storage.accounts.account_rows import ALICE, BOB


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    found = await Database.open(postgres_url, connections=2)
    await migrate(found)
    yield found
    await found.close()


def of_user(reason: str = "rude") -> NewReport:
    return NewReport(reporter=ALICE, user_id="@x:hs2", reason=reason, created_ms=5)


def test_a_report_is_of_the_most_exact_thing_that_it_names() -> None:
    event = NewReport(reporter=ALICE, room_id="!r", event_id="$e", reason="", created_ms=5)
    room = NewReport(reporter=ALICE, room_id="!r", reason="", created_ms=5)
    assert (event.kind, room.kind, of_user().kind) == ("event", "room", "user")


async def test_reports_are_read_in_pages_and_closed_once(database: Database) -> None:
    table = ReportTable(database)
    for reason in ("one", "two", "three"):
        assert await table.add(of_user(reason), open_max=10)
    first = await table.page(0, 2, open_only=True)
    assert [row.reason for row in first] == ["one", "two"]
    rest = await table.page(first[-1].report_id, 2, open_only=True)
    assert [(row.kind, row.reporter, row.user_id) for row in rest] == [("user", ALICE, "@x:hs2")]
    assert await table.resolve(first[0].report_id, "talked to them", 9)
    assert not await table.resolve(first[0].report_id, "again", 10)
    assert [row.reason for row in await table.page(0, 9, open_only=True)] == ["two", "three"]
    closed = (await table.page(0, 9, open_only=False))[0]
    assert (closed.resolved_ms, closed.note) == (9, "talked to them")
    await table.delete_resolved(9)
    assert len(await table.page(0, 9, open_only=False)) == 3
    await table.delete_resolved(10)
    assert len(await table.page(0, 9, open_only=False)) == 2


async def test_open_reports_of_a_reporter_are_bounded(database: Database) -> None:
    table = ReportTable(database)
    assert [await table.add(of_user(), open_max=2) for _ in range(3)] == [True, True, False]
    other = NewReport(reporter=BOB, room_id="!r", reason="", created_ms=5)
    assert await table.add(other, open_max=2)
    [first, *_] = await table.page(0, 1, open_only=True)
    await table.resolve(first.report_id, None, 9)
    assert await table.add(of_user(), open_max=2)
