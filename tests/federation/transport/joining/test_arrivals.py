"""Joins on their way, by room and by user."""

import asyncio
from unittest.mock import patch

import pytest

from federation.events.ids import RoomId, ServerName, UserId
from federation.transport.joining.arrivals import Arrivals

ROOM, OTHER_ROOM = RoomId("!room:there.test"), RoomId("!other:there.test")
ALICE, ANNA = UserId("@alice:here.test"), UserId("@anna:here.test")
THERE, ELSEWHERE = ServerName("there.test"), ServerName("elsewhere.test")


async def test_a_room_is_waited_for_until_the_last_join_is_over() -> None:
    arrivals = Arrivals()
    first, second = arrivals.joining(ROOM, ALICE), arrivals.joining(ROOM, ANNA)
    first.__enter__()
    second.__enter__()
    waiting = asyncio.create_task(arrivals.are_over(ROOM))
    assert await arrivals.are_over(OTHER_ROOM)
    first.__exit__(None, None, None)
    await asyncio.sleep(0)
    assert not waiting.done()
    second.__exit__(None, None, None)
    assert await waiting
    assert await arrivals.are_over(ROOM)


async def test_the_wait_for_a_room_is_bounded() -> None:
    arrivals = Arrivals()
    with (
        arrivals.joining(ROOM, ALICE),
        patch("federation.transport.joining.arrivals.ARRIVAL_WAIT_S_MAX", 0),
    ):
        assert not await arrivals.are_over(ROOM)


def test_who_was_asked_is_known_as_long_as_the_join_is_on_its_way() -> None:
    arrivals = Arrivals()
    with arrivals.joining(ROOM, ALICE) as arrival, arrivals.joining(OTHER_ROOM, ALICE) as other:
        assert arrivals.is_joining(ALICE)
        assert not arrivals.is_joining(ANNA)
        assert not arrivals.has_asked(ALICE, THERE)
        arrival.asked.add(THERE)
        other.asked.add(ELSEWHERE)
        assert arrivals.has_asked(ALICE, THERE)
        assert arrivals.has_asked(ALICE, ELSEWHERE)
        assert not arrivals.has_asked(ANNA, THERE)
    assert not arrivals.is_joining(ALICE)
    assert not arrivals.has_asked(ALICE, THERE)


def test_a_join_that_fails_is_over() -> None:
    arrivals = Arrivals()

    def fail() -> None:
        with arrivals.joining(ROOM, ALICE) as arrival:
            arrival.asked.add(THERE)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert not arrivals.is_joining(ALICE)
    assert not arrivals.has_asked(ALICE, THERE)
