"""Bytes under way with other servers: who gives way to whom."""

from __future__ import annotations

import asyncio

import pytest

from federation.events.ids import ServerName
from federation.limits import EXCHANGES_BYTES_MAX, EXCHANGES_BYTES_PER_SERVER_MAX
from federation.transport.scheduling.exchange_budget import ExchangeBudget, OverBudget, Take

ONE, TWO, THREE = (ServerName(f"{name}.test") for name in ("one", "two", "three"))


class Running:
    """An exchange that takes bytes and then waits."""

    def __init__(self, budget: ExchangeBudget, server: ServerName, *counts: int) -> None:
        self._budget, self._server, self._counts = budget, server, counts
        self.has_taken, self._over = asyncio.Event(), asyncio.Event()
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> str:
        try:
            async with self._budget.use(self._server) as take:
                for count in self._counts:
                    take(count)
                self.has_taken.set()
                await self._over.wait()
        except OverBudget:
            return "given up"
        return "done"

    async def end(self) -> str:
        """Returns how it ended; it is told to."""
        self._over.set()
        return await self.task


async def started(budget: ExchangeBudget, server: ServerName, *counts: int) -> Running:
    """Returns an exchange that has its bytes."""
    running = Running(budget, server, *counts)
    await running.has_taken.wait()
    return running


async def test_bytes_are_given_back_at_the_end() -> None:
    budget = ExchangeBudget(100, 100)
    for _ in range(3):
        running = await started(budget, ONE, 60, 40)
        assert budget.total == 100
        assert await running.end() == "done"
        assert budget.total == 0


async def test_a_server_has_its_share() -> None:
    budget = ExchangeBudget(1_000, 100)
    first = await started(budget, ONE, 60)
    second = await started(budget, ONE, 40)
    assert await Running(budget, ONE, 1).task == "given up"
    other = await started(budget, TWO, 100)
    assert [await one.end() for one in (first, second, other)] == ["done"] * 3


async def test_the_largest_of_the_server_with_most_gives_way_at_once() -> None:
    """It may be waiting for what never comes, and need not be the largest of all."""
    budget = ExchangeBudget(100, 100)
    small = await started(budget, ONE, 25)
    large = await started(budget, ONE, 30)
    lone = await started(budget, TWO, 40)
    honest = await started(budget, THREE, 5)
    assert budget.total == 100
    newest = await started(budget, THREE, 1)
    assert await large.task == "given up"
    assert budget.total == 71
    assert [await one.end() for one in (small, lone, honest, newest)] == ["done"] * 4
    assert budget.total == 0


async def test_one_that_grows_beyond_all_others_gives_way_itself() -> None:
    budget = ExchangeBudget(100, 100)
    other = await started(budget, TWO, 20)
    assert await Running(budget, ONE, 70, 11).task == "given up"
    assert budget.total == 20
    assert await other.end() == "done"


async def test_what_is_given_up_takes_no_more() -> None:
    """Between being given up and its end it may go on for a step."""
    budget = ExchangeBudget(100, 100)

    async def grow(take: Take) -> None:
        async with budget.use(ONE) as take_more:
            take_more(80)
            take(30)
            take_more(1)

    async with budget.use(TWO) as take:
        with pytest.raises(OverBudget):
            await grow(take)
        assert budget.total == 30


async def test_a_cancelled_exchange_is_cancelled() -> None:
    budget = ExchangeBudget(100, 100)
    running = await started(budget, ONE, 60)
    running.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running.task
    assert budget.total == 0


async def test_a_time_out_within_an_exchange_is_its_own() -> None:
    with pytest.raises(TimeoutError):
        async with ExchangeBudget(100, 100).use(ONE):
            raise TimeoutError


def test_a_rooms_state_fits_and_no_server_has_all() -> None:
    assert EXCHANGES_BYTES_PER_SERVER_MAX < EXCHANGES_BYTES_MAX
