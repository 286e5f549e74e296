"""The connection that writes the log: one session, whose end settles what it sent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from homeserver.storage.database import LOG_APPLICATION, Connection, Database
from homeserver.storage.log_writer import LogWriter
from homeserver.storage.timeline.events import insert, insert_outliers
from tests.homeserver.storage.event_rows import ROOM, outlier, placed
from tests.homeserver.storage.test_logs import CUT_OFF


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[LogWriter]:
    made = LogWriter(database)
    await made.take_over("h")
    yield made
    await made.disconnect()


async def sessions(database: Database) -> set[int]:
    """Return the sessions of the log's writers in this database."""
    rows = await database.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = $1",
        LOG_APPLICATION,
    )
    return {row[0] for row in rows}


async def test_one_session_is_kept_until_it_is_given_up(
    database: Database, writer: LogWriter
) -> None:
    await writer.settled_position(1, 0)
    (first,) = await sessions(database)
    await writer.any_placed([])
    assert await sessions(database) == {first}
    assert await writer.abandon() == first
    assert await writer.settled_position(1, first) == 0
    assert first not in await sessions(database)


async def test_a_statement_on_its_way_is_ended_before_the_position_is_read(
    database: Database, writer: LogWriter
) -> None:
    """Otherwise the commit could still come, after somebody was told that it hadn't."""
    await writer.settled_position(1, 0)
    connection = await writer._connected()
    started = connection.transaction()
    await started.start()
    await connection.execute("UPDATE logs SET position = 7")  # sent; the commit isn't
    lost, writer._connection = writer._session, None
    assert await writer.settled_position(1, lost) == 0
    with pytest.raises(CUT_OFF):
        await started.commit()
    assert await database.fetchval("SELECT position FROM logs") == 0


async def test_a_log_that_was_taken_over_has_no_position_for_us(
    database: Database, writer: LogWriter
) -> None:
    await LogWriter(database).take_over("h")
    assert await writer.settled_position(1, 0) is None
    assert await writer.settled_position(2, 0) == 0


async def test_a_connection_that_was_cut_is_opened_anew(
    database: Database, writer: LogWriter
) -> None:
    await writer.settled_position(1, 0)
    (first,) = await sessions(database)
    await database.execute("SELECT pg_terminate_backend($1, 5000)", first)
    lost = await writer.abandon()
    assert lost == first
    assert await writer.settled_position(1, lost) == 0
    assert first not in await sessions(database)


async def test_placed_events_are_told_from_outliers(database: Database, writer: LogWriter) -> None:
    await database.execute("INSERT INTO rooms VALUES ($1, '!r', '11')", ROOM)

    async def write(connection: Connection) -> None:
        await insert(connection, [placed(1, "$1")])
        await insert_outliers(connection, [outlier(2, "$2")])

    async with database.transaction() as connection:
        await write(connection)
    assert await writer.any_placed([(ROOM, 1, False)])
    assert not await writer.any_placed([(ROOM, 1, True), (ROOM, 2, False), (ROOM, 3, False)])
