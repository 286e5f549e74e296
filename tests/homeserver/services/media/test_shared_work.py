"""Work that is done once for all who need it."""

import asyncio

import pytest

from homeserver.services.media.shared_work import SharedWork


class Work:
    """Counts how often it is begun, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return number


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_get_the_one_result() -> None:
    shared: SharedWork[str, int] = SharedWork()
    work, other = Work(), Work()
    tasks = [asyncio.ensure_future(shared.do("a", work)) for _ in range(5)]
    tasks.append(asyncio.ensure_future(shared.do("b", other)))
    await settle()
    work.may_end.set()
    other.may_end.set()
    assert await asyncio.gather(*tasks) == [1] * 6
    assert await shared.do("a", work) == 2, "what has ended isn't kept"


async def test_all_get_the_one_error() -> None:
    shared: SharedWork[str, int] = SharedWork()
    work = Work()
    work.error = ZeroDivisionError()
    tasks = [asyncio.ensure_future(shared.do("a", work)) for _ in range(3)]
    await settle()
    work.may_end.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [ZeroDivisionError] * 3
    assert work.begun == 1
    alone = Work()
    alone.error = ZeroDivisionError()
    alone.may_end.set()
    with pytest.raises(ZeroDivisionError):
        await shared.do("a", alone)


async def test_another_takes_over_when_the_first_is_cancelled() -> None:
    shared: SharedWork[str, int] = SharedWork()
    work = Work()
    first, *others = [asyncio.ensure_future(shared.do("a", work)) for _ in range(3)]
    await settle()
    first.cancel()
    await settle()
    assert work.begun == 2
    work.may_end.set()
    assert await asyncio.gather(*others) == [2, 2]
    assert first.cancelled()


async def test_a_waiter_that_is_cancelled_ends_alone() -> None:
    shared: SharedWork[str, int] = SharedWork()
    work = Work()
    first, second = (asyncio.ensure_future(shared.do("a", work)) for _ in range(2))
    await settle()
    second.cancel()
    await settle()
    work.may_end.set()
    assert await first == 1
    assert second.cancelled()
