"""A token of a lost future is told from one of this log's past, however far the log has grown."""

from __future__ import annotations

import pytest

from federation.errors import MatrixError
from homeserver import limits
from homeserver.engine.log.log_history import LogHistory
from homeserver.rules.sync.sync_tokens import (
    InvalidToken,
    Mark,
    PageToken,
    Point,
    SyncToken,
    format_point,
    format_sync,
)
from homeserver.storage import logs
from homeserver.storage.database import Database
from homeserver.storage.logs import Epoch, LogTable
from homeserver.storage.migrate import migrate

EPOCHS = [Epoch("first", 0), Epoch("second", 10), Epoch("third", 10), Epoch("now", 25)]


def of(end: int) -> LogHistory:
    return LogHistory(EPOCHS, lambda: end)


@pytest.mark.parametrize(
    ("history", "position", "is_held"),
    [
        ("first", 0, True),
        ("first", 10, True),
        ("first", 11, False),
        ("second", 10, True),
        ("second", 11, False),
        ("third", 25, True),
        ("third", 26, False),
        ("now", 30, True),
        ("now", 31, False),
        ("lost", 5, False),
    ],
)
def test_a_token_counts_up_to_where_the_next_epoch_began(
    history: str, position: int, is_held: bool
) -> None:
    log = of(30)
    assert log.holds(Mark(history, position)) is is_held
    tokens = (
        format_sync(SyncToken(history, ((1, position),), 0)),
        format_point(PageToken(Mark(history, position), Point((4, 0)))),
    )
    for token in tokens:
        if is_held:
            assert isinstance(log.parse(token), SyncToken | Point)
            continue
        with pytest.raises(MatrixError) as refused:
            log.parse(token)
        assert (refused.value.status, refused.value.errcode) == (400, "M_UNKNOWN_POS")


def test_tokens_name_the_epoch_of_now() -> None:
    log = of(30)
    assert log.mark() == Mark("now", 30)
    assert log.parse(log.format_point(Point((7, -2)))) == Point((7, -2))
    with pytest.raises(InvalidToken):
        log.parse("m1.7.-2")


async def test_each_owner_begins_an_epoch_where_the_log_is(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(postgres_url, connections=1)
    await migrate(database)
    log = LogTable(database)
    first = await log.take_over("a")
    assert first.epochs == [Epoch("a", 0)]
    async with database.connection() as connection:
        assert await logs.move(connection, epoch=first.epoch, old=0, new=7)
    second = await log.take_over("b")
    assert second.epochs == [Epoch("a", 0), Epoch("b", 7)]
    assert (second.epoch, second.position) == (first.epoch + 1, 7)
    monkeypatch.setattr(limits, "EPOCHS_KEPT", 2)
    third = await log.take_over("c")
    assert third.epochs == [Epoch("b", 7), Epoch("c", 7)]
    await database.close()
