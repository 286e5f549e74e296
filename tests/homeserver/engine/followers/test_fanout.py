"""Who is woken by a commit, and how many at a time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from federation.events.ids import DeviceId, RoomId, ServerName, UserId
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Placed, ReceiptEntry
from homeserver.engine.followers.fanout import Fanout

ROOM = RoomId("!r:here")
HERE = ServerName("here")


def user(number: int) -> UserId:
    return UserId(f"@u{number}:here")


def fanout_of(joined: set[UserId]) -> Fanout:
    """A fan-out over one hot room."""
    room = SimpleNamespace(joined_local=joined, room_id=ROOM)
    rooms = SimpleNamespace(hot=lambda room_id: room if room_id == ROOM else None)
    return Fanout(cast(Any, rooms), cast(Any, None), HERE)


def news() -> list[Placed]:
    receipt = ReceiptEntry(ROOM, user(0), "m.read", "", cast(Any, "$e"), 1)
    return [Placed(1, receipt)]


async def test_many_long_polls_are_woken_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WOKEN_AT_ONCE", 10)
    fanout = fanout_of({user(number) for number in range(45)})
    passes = 0
    woken: list[int] = []

    async def count_passes() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    async def poll(number: int) -> None:
        waiter = fanout.waiter(user(number), DeviceId("D"))
        assert await waiter.wait(60)
        woken.append(passes)
        waiter.close()

    counting = asyncio.ensure_future(count_passes())
    polls = [asyncio.ensure_future(poll(number)) for number in range(50)]
    await asyncio.sleep(0)
    fanout.published(news())
    fanout.published(news())  # whoever waits to be woken isn't woken twice
    await asyncio.gather(*polls[:45])
    counting.cancel()
    assert sorted(woken.count(one) for one in set(woken)) == [5, 10, 10, 10, 10]
    assert [one.done() for one in polls[45:]] == [False] * 5
    for one in polls[45:]:
        one.cancel()


async def test_a_later_commit_goes_on_where_a_slice_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WOKEN_AT_ONCE", 2)
    fanout = fanout_of({user(number) for number in range(3)})
    waiters = [fanout.waiter(user(number), DeviceId("D")) for number in range(4)]
    fanout.published(news())
    alone = AccountDataEntry(user(3), "", "m.x", b"{}")
    fanout.published([Placed(2, alone)])
    for waiter in waiters:
        assert await waiter.wait(60)
    assert not fanout._to_wake
