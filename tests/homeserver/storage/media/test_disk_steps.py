"""Steps on threads: their order, whatever becomes of their callers, and their failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from homeserver.storage.media.blob_store import BlobStoreUnavailable
from homeserver.storage.media.disk_steps import DiskSteps


class Gate:
    """A step that waits on its thread until it is let go."""

    def __init__(self) -> None:
        self._may_go = threading.Event()

    def step(self) -> None:
        assert self._may_go.wait(60)

    def open(self) -> None:
        self._may_go.set()


@pytest.fixture
async def steps() -> AsyncIterator[DiskSteps]:
    """Steps with as many threads as could hurt their order."""
    with ThreadPoolExecutor(4) as threads:
        yield DiskSteps(threads)


def failing(error: Exception) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


async def test_a_step_gives_its_result_from_a_thread(steps: DiskSteps) -> None:
    assert not steps.are_begun
    assert await steps.run(threading.get_ident) != threading.get_ident()
    assert steps.are_begun


async def test_steps_are_executed_in_their_order(steps: DiskSteps) -> None:
    gate, done = Gate(), list[int]()
    await steps.begin(gate.step)
    tasks = [asyncio.create_task(steps.run(partial(done.append, number))) for number in range(20)]
    await asyncio.sleep(0)
    assert not done
    gate.open()
    await asyncio.gather(*tasks)
    assert done == list(range(20))


async def test_begun_steps_are_not_waited_for_but_one_at_a_time(steps: DiskSteps) -> None:
    first, done = Gate(), list[str]()
    await steps.begin(first.step)  # returns, though the gate is shut
    second = asyncio.create_task(steps.begin(lambda: done.append("second")))
    await asyncio.sleep(0)
    assert not second.done(), "two steps would be waiting, with what they hold"
    first.open()
    await second
    await steps.end(lambda: done.append("end"))
    assert done == ["second", "end"]


async def test_a_cancelled_callers_step_is_executed_before_the_next(steps: DiskSteps) -> None:
    gate, done = Gate(), list[str]()
    await steps.begin(gate.step)
    cancelled = asyncio.create_task(steps.run(lambda: done.append("cancelled")))
    await asyncio.sleep(0)
    cancelled.cancel()
    end = steps.end(lambda: done.append("end"))
    gate.open()
    await end
    assert done == ["cancelled", "end"]
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_a_failure_is_told_to_who_waits_and_the_disks_is_the_stores(steps: DiskSteps) -> None:
    with pytest.raises(ZeroDivisionError):
        await steps.run(failing(ZeroDivisionError()))
    with pytest.raises(BlobStoreUnavailable, match="full"):
        await steps.run(failing(OSError("full")))
    assert await steps.run(lambda: 1) == 1, "a failure that was told stops nothing"


async def test_after_the_failure_of_a_begun_step_only_the_end_is_executed(
    steps: DiskSteps,
) -> None:
    done = list[str]()
    await steps.begin(failing(OSError("full")))
    with pytest.raises(BlobStoreUnavailable, match="full"):
        await steps.run(lambda: done.append("run"))
    with pytest.raises(BlobStoreUnavailable, match="full"):
        await steps.begin(lambda: done.append("begun"))
    await steps.end(lambda: done.append("end"))
    assert done == ["end"]


async def test_steps_hold_one_thread_and_none_when_they_are_done() -> None:
    with ThreadPoolExecutor(1) as threads:
        idle, busy = DiskSteps(threads), DiskSteps(threads)
        gate = Gate()
        await busy.begin(gate.step)
        waiting = asyncio.create_task(idle.run(lambda: 1))
        gate.open()
        assert await waiting == 1
        assert await busy.run(lambda: 2) == 2
