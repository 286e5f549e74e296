"""The queue of rooms with due rechecks: in order, without repeats, nothing lost."""

from __future__ import annotations

import asyncio

from federation.events.ids import RoomId
from homeserver.engine.recheck.due_rooms import DueRooms

A, B, C = RoomId("!a:hs1"), RoomId("!b:hs1"), RoomId("!c:hs1")


async def passes() -> None:
    """Lets all other tasks come to rest."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_room_that_has_waited_longest_comes_first_and_once() -> None:
    due = DueRooms()
    due.add([A, B, A])
    due.add([C, B])
    assert [await due.next() for _ in range(3)] == [A, B, C]
    waiting = asyncio.ensure_future(due.next())
    await passes()
    assert not waiting.done()
    due.add([B])  # it may be due again
    assert await waiting == B


async def test_a_room_that_becomes_due_while_it_is_processed_comes_again() -> None:
    due = DueRooms()
    due.add([A])
    assert await due.next() == A
    due.add([A])
    assert await due.next() == A


async def test_nothing_due_wakes_nobody() -> None:
    due = DueRooms()
    waiting = asyncio.ensure_future(due.next())
    await passes()
    due.add([])
    await passes()
    assert not waiting.done()
    due.add(iter([C]))
    assert await waiting == C


async def test_a_room_goes_to_one_of_those_who_wait() -> None:
    due = DueRooms()
    waiting = [asyncio.ensure_future(due.next()) for _ in range(2)]
    await passes()
    due.add([A])
    await passes()
    assert [one.done() for one in waiting] == [True, False]
    due.add([B])
    assert await asyncio.gather(*waiting) == [A, B]


async def test_a_cancelled_wait_takes_no_room_along() -> None:
    due = DueRooms()
    waiting = asyncio.ensure_future(due.next())
    await passes()
    due.add([A, B])
    waiting.cancel()  # it was woken, and hasn't run yet
    await passes()
    assert waiting.cancelled()
    assert [await due.next(), await due.next()] == [A, B]
