"""Row numbers: each is used once, whoever takes it."""

from __future__ import annotations

import asyncio

import pytest

from homeserver.engine.log.row_numbers import RowNumbers
from homeserver.engine.rooms.room import Superseded
from homeserver.storage.database import DatabaseUnavailable
from tests.simulation.memory_store import MemoryLog, at_once
from tests.simulation.memory_tables import Tables


class Blocks(MemoryLog):
    """Reserves small blocks; counts them, and fails when told to."""

    def __init__(self, size: int) -> None:
        super().__init__(Tables(), at_once)
        self.size = size
        self.taken: list[range] = []
        self.fails = False

    async def take_row_ids(self) -> range:
        if self.fails:
            raise DatabaseUnavailable("gone")
        await asyncio.sleep(0)
        start = self.taken[-1].stop if self.taken else 1
        self.taken.append(range(start, start + self.size))
        return self.taken[-1]


async def test_each_number_is_taken_once_in_the_order_of_the_blocks() -> None:
    log = Blocks(3)
    numbers = RowNumbers(log)
    await numbers.ready(7)
    assert numbers.left == 9
    assert [numbers.take() for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]
    assert numbers.left == 2
    await numbers.ready(2)
    assert len(log.taken) == 3  # enough were left
    await numbers.ready(3)
    assert [numbers.take() for _ in range(5)] == [8, 9, 10, 11, 12]


async def test_owners_of_one_log_never_share_a_number() -> None:
    tables = Tables()
    taken: list[int] = []
    for owner in (RowNumbers(MemoryLog(tables, at_once)), RowNumbers(MemoryLog(tables, at_once))):
        await owner.ready(1_500)
        taken += [owner.take() for _ in range(1_500)]
    assert len(set(taken)) == 3_000


async def test_who_comes_too_late_for_the_reserved_numbers_stages_again() -> None:
    numbers = RowNumbers(Blocks(2))
    with pytest.raises(Superseded):
        numbers.take()
    await numbers.ready(2)
    first = [numbers.take(), numbers.take()]
    with pytest.raises(Superseded):
        numbers.take()
    assert numbers.left == 0
    await numbers.ready(1)
    assert numbers.take() not in first


async def test_tasks_that_reserve_at_once_have_a_number_each() -> None:
    numbers = RowNumbers(Blocks(1))

    async def take() -> int:
        while True:
            await numbers.ready(1)
            try:
                return numbers.take()
            except Superseded:
                continue

    taken = await asyncio.gather(*(take() for _ in range(20)))
    assert len(set(taken)) == 20


async def test_a_failed_reservation_leaves_what_was_reserved() -> None:
    log = Blocks(2)
    numbers = RowNumbers(log)
    await numbers.ready(1)
    log.fails = True
    with pytest.raises(DatabaseUnavailable):
        await numbers.ready(3)
    assert (numbers.left, numbers.take()) == (2, 1)
    log.fails = False
    await numbers.ready(3)
    assert [numbers.take() for _ in range(3)] == [2, 3, 4]
