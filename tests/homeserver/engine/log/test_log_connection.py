"""The log's connection: a batch's errors, and its outcome after the connection is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Entry, Unit
from homeserver.engine.log.batch import Batch, PlainUnit
from homeserver.engine.log.log_connection import Fault, LogConnection, LogLost
from homeserver.storage.database import DatabaseUnavailable, DataRefused
from tests.homeserver.engine.engine_world import ALICE
from tests.simulation.memory_store import MemoryLog, at_once
from tests.simulation.memory_tables import Tables
from tests.simulation.virtual_time import run_virtually

ENTRY = AccountDataEntry(ALICE, "", "m.x", b"{}")


class LostLog(MemoryLog):
    """A log that notes what is asked of it, and fails as often as it is told to."""

    def __init__(self) -> None:
        super().__init__(Tables(), at_once)
        self.tables = self._tables
        self.calls: list[str] = []
        self.failures: list[Exception] = []
        self.is_placed = False

    async def abandon(self) -> int:
        self.calls.append("abandon")
        return 7

    async def settled_position(self, epoch: int, lost: int) -> int | None:
        self.calls.append(f"settled_position {lost}")
        if self.failures:
            raise self.failures.pop(0)
        return await super().settled_position(epoch, lost)

    async def any_placed(self, events: Sequence[tuple[int, int, bool]]) -> bool:
        self.calls.append(f"any_placed {list(events)}")
        if self.failures:
            raise self.failures.pop(0)
        return self.is_placed

    async def disconnect(self) -> None:
        self.calls.append("disconnect")


def batch_of(*entries: Entry, old: int = 0) -> Batch:
    """A batch of one unit without room events."""
    return Batch([PlainUnit(Unit(entries), asyncio.get_running_loop().create_future())], old)


def sent_batch(*entries: Entry) -> Batch:
    """A batch that the database may have received."""
    batch = batch_of(*entries)
    batch.sent = True
    return batch


async def owned() -> tuple[LostLog, LogConnection]:
    log = LostLog()
    return log, LogConnection(log, (await log.take_over("h")).epoch)


def failing(when: str, error: Exception) -> Fault:
    async def fault(now: str) -> None:
        if now == when:
            raise error

    return fault


# Writing


async def test_a_written_batch_moves_the_log() -> None:
    log, connection = await owned()
    faults: list[str] = []

    async def note(when: str) -> None:
        faults.append(f"{when} {log.tables.position}")

    await connection.write(batch_of(ENTRY, ENTRY), None)
    await connection.write(batch_of(ENTRY, old=2), note)
    assert log.tables.position == 3
    assert faults == ["before 2", "after 3"]


async def test_a_log_that_another_process_took_is_not_written() -> None:
    log, connection = await owned()
    await log.take_over("another")
    with pytest.raises(LogLost):
        await connection.write(batch_of(ENTRY), None)
    assert log.tables.position == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "error",
    [ConnectionResetError("cut"), asyncpg.InternalClientError("state 3"), TimeoutError()],
)
async def test_a_lost_connection_is_an_unavailable_database(when: str, error: Exception) -> None:
    log, connection = await owned()
    with pytest.raises(DatabaseUnavailable) as lost:
        await connection.write(batch_of(ENTRY), failing(when, error))
    assert lost.value.__cause__ is error
    assert log.tables.position == (when == "after")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (asyncpg.CharacterNotInRepertoireError("0x00"), DataRefused),
        (MatrixError(400, "M_X", "no"), MatrixError),
        (ValueError("a fault of the work"), ValueError),
    ],
)
async def test_errors_of_the_batch_itself_are_told_as_they_are(
    error: Exception, told: type[Exception]
) -> None:
    _, connection = await owned()
    with pytest.raises(told):
        await connection.write(batch_of(ENTRY), failing("before", error))


# The outcome


async def test_a_batch_that_was_never_sent_is_not_stored() -> None:
    log, connection = await owned()
    log.tables.position = 1
    assert not await connection.is_in(batch_of(ENTRY))
    assert log.calls == ["abandon"]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_the_position_tells_once_the_lost_session_is_ended(is_stored: bool) -> None:
    log, connection = await owned()
    log.tables.position = 2 if is_stored else 0
    assert await connection.is_in(sent_batch(ENTRY, ENTRY)) == is_stored
    assert log.calls == ["abandon", "settled_position 7"]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_row_tells_where_the_log_does_not_move(is_stored: bool) -> None:
    log, connection = await owned()
    log.is_placed = is_stored
    assert await connection.is_in(sent_batch()) == is_stored
    assert log.calls == ["abandon", "settled_position 7", "any_placed []"]


@pytest.mark.parametrize("entries", [[ENTRY], []])
async def test_the_outcome_is_unknown_to_who_lost_the_log(entries: list[Entry]) -> None:
    log, connection = await owned()
    await log.take_over("another")
    with pytest.raises(LogLost):
        await connection.is_in(sent_batch(*entries))


async def test_the_log_moves_by_whole_batches() -> None:
    log, connection = await owned()
    log.tables.position = 1
    with pytest.raises(AssertionError):
        await connection.is_in(sent_batch(ENTRY, ENTRY))


def test_the_outcome_is_asked_for_until_the_database_answers() -> None:
    async def ask() -> None:
        log, connection = await owned()
        log.tables.position = 1
        log.failures = [
            DatabaseUnavailable("away"),
            *[ConnectionRefusedError("starting") for _ in range(9)],
        ]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await connection.is_in(sent_batch(ENTRY))
        assert log.calls.count("settled_position 7") == 11
        assert log.calls.count("disconnect") == 10
        assert log.calls.count("abandon") == 1
        took_s = loop.time() - began_s
        assert 5 * limits.RECONNECT_S_MAX <= took_s <= 10 * limits.RECONNECT_S_MAX

    run_virtually(ask())


def test_a_connection_lost_between_the_two_questions_asks_both_again() -> None:
    async def ask() -> None:
        log, connection = await owned()
        asked = log.any_placed

        async def cut_once(events: Sequence[tuple[int, int, bool]]) -> bool:
            log.any_placed = asked  # type: ignore[method-assign]
            raise ConnectionResetError("cut")

        log.any_placed = cut_once  # type: ignore[method-assign]
        log.is_placed = True
        assert await connection.is_in(sent_batch())
        assert log.calls == [
            "abandon",
            "settled_position 7",
            "disconnect",
            "settled_position 7",
            "any_placed []",
        ]

    run_virtually(ask())


async def test_a_server_that_stops_does_not_wait_for_an_outcome() -> None:
    log, connection = await owned()
    log.failures = [DatabaseUnavailable("away"), DatabaseUnavailable("still away")]
    connection.stop_asking()
    assert not await connection.is_in(sent_batch(ENTRY))
    assert len(log.failures) == 1


async def test_an_answer_at_the_first_look_counts_while_the_server_stops() -> None:
    log, connection = await owned()
    log.tables.position = 1
    connection.stop_asking()
    assert await connection.is_in(sent_batch(ENTRY))


async def test_a_fault_of_ours_is_not_taken_for_a_lost_connection() -> None:
    log, connection = await owned()
    log.failures = [ValueError("a fault")]
    with pytest.raises(ValueError, match="a fault"):
        await connection.is_in(sent_batch(ENTRY))


async def test_closing_ends_the_connection() -> None:
    log, connection = await owned()
    await connection.close()
    assert log.calls == ["disconnect"]
