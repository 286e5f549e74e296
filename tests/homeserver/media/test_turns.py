"""Turns: in a bounded queue, fair among causes, and robust to cancellation."""

import asyncio

import pytest

from federation.causes import Cause, CauseKind, caused_by
from homeserver import limits
from homeserver.media.turns import QueueFull, TurnBounds, Turns

ALICE, BOB = (Cause(CauseKind.USER, name) for name in ("@alice:hs1", "@bob:hs1"))


class Queue:
    """Workers that say when they have their turn, and keep it until they are let go."""

    def __init__(self, bounds: TurnBounds) -> None:
        self.turns = Turns(bounds)
        self.order: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def add(self, name: str, cause: Cause) -> None:
        """Adds a worker and lets it come as far as it can."""
        self.ends[name] = asyncio.Event()
        with caused_by(cause):
            self.tasks[name] = asyncio.ensure_future(self._work(name))
        await self.settle()

    async def _work(self, name: str) -> None:
        async with self.turns.turn():
            self.order.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        """Ends a worker's turn."""
        self.ends[name].set()
        await self.tasks[name]
        await self.settle()

    async def settle(self) -> None:
        """Lets all tasks run until they wait."""
        for _ in range(5):
            await asyncio.sleep(0)


async def test_so_many_work_at_once() -> None:
    queue = Queue(TurnBounds(at_once=2, waiting=9, waiting_of_cause=9))
    for name in "abc":
        await queue.add(name, ALICE)
    assert queue.order == ["a", "b"]
    await queue.end("b")
    assert queue.order == ["a", "b", "c"]
    await queue.end("a")
    await queue.end("c")
    await queue.add("d", ALICE)
    assert queue.order[-1] == "d"
    await queue.end("d")


async def test_causes_take_turns() -> None:
    queue = Queue(TurnBounds(at_once=1, waiting=9, waiting_of_cause=9))
    for name in ("a1", "a2", "a3", "a4"):
        await queue.add(name, ALICE)
    for name in ("b1", "b2"):
        await queue.add(name, BOB)
    for name in ("a1", "a2", "b1", "a3", "b2", "a4"):
        assert queue.order[-1] == name
        await queue.end(name)


async def test_a_full_queue_refuses() -> None:
    queue = Queue(TurnBounds(at_once=1, waiting=3, waiting_of_cause=2))
    for name in ("a1", "a2", "a3"):
        await queue.add(name, ALICE)
    with pytest.raises(QueueFull), caused_by(ALICE):
        async with queue.turns.turn():
            raise AssertionError("alice has two that wait")
    await queue.add("b1", BOB)
    with pytest.raises(QueueFull), caused_by(BOB):
        async with queue.turns.turn():
            raise AssertionError("three wait")
    for name in ("a1", "a2", "b1", "a3"):
        await queue.end(name)
    assert queue.order == ["a1", "a2", "b1", "a3"]


async def test_a_cancelled_wait_leaves_the_queue() -> None:
    queue = Queue(TurnBounds(at_once=1, waiting=1, waiting_of_cause=1))
    await queue.add("a", ALICE)
    await queue.add("b", BOB)
    queue.tasks["b"].cancel()
    await queue.settle()
    await queue.add("c", ALICE)
    await queue.end("a")
    assert queue.order == ["a", "c"]
    await queue.end("c")


async def test_a_turn_that_comes_with_the_cancellation_goes_on() -> None:
    """Both orders: the turn is granted and the task cancelled before it runs."""
    for cancel_first in (True, False):
        queue = Queue(TurnBounds(at_once=1, waiting=9, waiting_of_cause=9))
        await queue.add("a", ALICE)
        await queue.add("b", BOB)
        await queue.add("c", ALICE)
        if cancel_first:
            queue.tasks["b"].cancel()
            queue.ends["a"].set()
        else:
            queue.ends["a"].set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            queue.tasks["b"].cancel()
        await queue.settle()
        if "b" in queue.order:
            queue.tasks["b"].cancel()
            await queue.settle()
        assert queue.order[-1] == "c"
        await queue.end("c")
        await queue.add("d", BOB)
        assert queue.order[-1] == "d"
        await queue.end("d")


def test_the_bounds_of_users_are_below_those_of_all() -> None:
    assert limits.THUMBNAILS_WAITING_OF_CAUSE < limits.THUMBNAILS_WAITING
    assert limits.PREVIEWS_WAITING_OF_CAUSE < limits.PREVIEWS_WAITING
    assert limits.PREVIEWS_AT_ONCE * limits.PREVIEW_IMAGE_BYTES < limits.SANDBOX_MEMORY_BYTES
    assert limits.PREVIEW_PAGE_S + 2 * limits.PREVIEW_PART_S < 30


async def test_an_error_gives_the_turn_back() -> None:
    turns = Turns(TurnBounds(at_once=1, waiting=0, waiting_of_cause=0))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with turns.turn():
                raise ZeroDivisionError
