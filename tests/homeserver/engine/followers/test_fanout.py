"""Who is woken by a commit, and how many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from federation.events.ids import DeviceId, EventId, RoomId, ServerName, UserId
from federation.graph.building import EventDraft
from homeserver import limits
from homeserver.engine.entries import (
    AccountDataEntry,
    DeviceListEntry,
    MembershipEntry,
    Placed,
    ReceiptEntry,
    RemoteEduEntry,
    ToDeviceEntry,
)
from homeserver.engine.followers.fanout import Fanout, Waiter
from tests.homeserver.engine.engine_world import ALICE, World, draft, in_memory
from tests.simulation.virtual_time import run_virtually

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


# Who is concerned


@dataclass
class Listening:
    """Waiters of users, over a running server."""

    world: World
    waiters: dict[UserId, Waiter] = field(default_factory=dict)

    def listen(self, *users: UserId) -> None:
        """A long poll of each."""
        for one in users:
            self.waiters[one] = self.world.engine.fanout.waiter(one, DeviceId("D"))

    async def woken(self) -> set[UserId]:
        """Those who were woken since the last look."""
        for _ in range(5):
            await asyncio.sleep(0)
        return {one for one, waiter in self.waiters.items() if await waiter.wait(0)}


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    async with in_memory() as world:
        yield Listening(world)


YVES, ZOE = UserId("@yves:hs1"), UserId("@zoe:hs1")


def joins(who: UserId) -> EventDraft:
    return draft("m.room.member", {"membership": "join"}, who, sender=who)


def member(who: UserId, membership: str) -> EventDraft:
    return draft("m.room.member", {"membership": membership}, who)


async def test_an_event_wakes_the_joined_users_of_its_room(listening: Listening) -> None:
    world = listening.world
    room_id, other = await world.create_room(), await world.create_room()
    await world.engine.writer.send(room_id, joins(ZOE))
    listening.listen(ALICE, YVES, ZOE)
    await world.say(room_id, "x")
    assert await listening.woken() == {ALICE, ZOE}
    await world.say(other, "x")
    assert await listening.woken() == {ALICE}
    assert await listening.woken() == set()


@pytest.mark.parametrize("is_crowded", [True, False])
async def test_whoever_comes_or_goes_is_woken_too(listening: Listening, is_crowded: bool) -> None:
    """Whether more users wait than are in the room, or fewer."""
    world = listening.world
    room_id = await world.create_room()
    crowd = [UserId(f"@u{number}:hs1") for number in range(5)]
    if not is_crowded:
        for one in crowd:
            await world.engine.writer.send(room_id, joins(one))
    else:
        listening.listen(*crowd)
    listening.listen(ALICE, ZOE)
    for what in (member(ZOE, "invite"), joins(ZOE), member(ZOE, "leave"), member(ZOE, "ban")):
        await world.engine.writer.send(room_id, what)
        assert await listening.woken() == {ALICE, ZOE}
    await world.say(room_id, "x")
    assert await listening.woken() == {ALICE}


async def test_what_is_a_users_own_wakes_that_user(listening: Listening) -> None:
    world = listening.world
    room_id = await world.create_room()
    listening.listen(ALICE, ZOE)
    invite = MembershipEntry(ZOE, RoomId("!r:hs2"), "invite", EventId("$i"), ALICE)
    for entry in (
        AccountDataEntry(ZOE, "", "m.x", b"{}"),
        ToDeviceEntry(ZOE, DeviceId("D"), b"{}"),
        invite,
    ):
        world.engine.fanout.published([Placed(1, entry)])
        assert await listening.woken() == {ZOE}, entry
    receipt = ReceiptEntry(room_id, ZOE, "m.read", "", EventId("$e"), 1)
    world.engine.fanout.published([Placed(1, receipt)])
    assert await listening.woken() == {ALICE}
    edu = RemoteEduEntry(ServerName("hs2"), b"{}")
    cold = ReceiptEntry(RoomId("!cold:hs1"), ZOE, "m.read", "", EventId("$e"), 1)
    world.engine.fanout.published([Placed(1, edu), Placed(2, cold)])
    assert await listening.woken() == set()


@pytest.mark.parametrize("is_known", [True, False])
async def test_changed_devices_wake_those_who_share_a_room(
    listening: Listening, is_known: bool
) -> None:
    """Whether the changed user's rooms are in memory or not."""
    world = listening.world
    room_id, other = await world.create_room(), await world.create_room()
    await world.engine.writer.send(room_id, joins(ZOE))
    await world.engine.writer.send(other, joins(YVES))
    for who in (ALICE, YVES) if not is_known else (ALICE, YVES, ZOE):
        await world.engine.memberships.of(who)
    if not is_known:
        world.engine.memberships.drop(ZOE)
    listening.listen(ALICE, YVES, ZOE)
    world.engine.fanout.published([Placed(1, DeviceListEntry(ZOE))])
    assert await listening.woken() == {ALICE, ZOE}


async def test_a_user_whose_rooms_are_not_in_memory_is_woken_to_look(
    listening: Listening,
) -> None:
    world = listening.world
    room_id, other = await world.create_room(), await world.create_room()
    await world.engine.writer.send(room_id, joins(ZOE))
    await world.engine.writer.send(other, joins(YVES))
    await world.engine.memberships.of(YVES)
    for one in (ALICE, ZOE):
        world.engine.memberships.drop(one)
    listening.listen(ALICE, YVES, ZOE)
    world.engine.fanout.published([Placed(1, DeviceListEntry(ZOE))])
    assert await listening.woken() == {ALICE, ZOE}  # YVES' room has no ZOE in it
    world.engine.rooms.drop(other)
    world.engine.fanout.published([Placed(1, DeviceListEntry(ZOE))])
    assert await listening.woken() == {ALICE, YVES, ZOE}
    assert await world.engine.memberships.of(ZOE)
    world.engine.rooms.drop(room_id)  # one of ZOE's own rooms
    world.engine.fanout.published([Placed(1, DeviceListEntry(ZOE))])
    assert await listening.woken() == {ALICE, YVES, ZOE}


async def test_a_departed_user_is_not_told_of_devices(listening: Listening) -> None:
    world = listening.world
    room_id = await world.create_room()
    await world.engine.writer.send(room_id, joins(ZOE))
    await world.engine.writer.send(room_id, joins(YVES))
    await world.engine.writer.send(room_id, member(YVES, "leave"))
    for who in (ALICE, YVES):
        await world.engine.memberships.of(who)
    world.engine.memberships.drop(ZOE)
    listening.listen(ALICE, YVES)
    world.engine.fanout.published([Placed(1, DeviceListEntry(ZOE))])
    assert await listening.woken() == {ALICE}


# A waiter


def test_nothing_between_the_first_look_and_the_wait_is_missed() -> None:
    async def wait() -> None:
        fanout = fanout_of({user(0)})
        waiter = fanout.waiter(user(0), DeviceId("D"))
        fanout.published(news())  # before it waits
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await waiter.wait(30)
        assert loop.time() == began_s
        assert not await waiter.wait(30)
        assert loop.time() == pytest.approx(began_s + 30)
        fanout.published(news())
        fanout.published(news())
        assert await waiter.wait(30)
        assert not await waiter.wait(0)  # woken once for both
        waiter.close()
        waiter.close()
        fanout.published(news())
        assert not await waiter.wait(0)

    run_virtually(wait())


async def test_each_device_of_a_user_is_woken() -> None:
    fanout = fanout_of({user(0)})
    one, other = (fanout.waiter(user(0), DeviceId(name)) for name in ("A", "B"))
    one.close()
    again = fanout.waiter(user(0), DeviceId("A"))
    fanout.published(news())
    assert [await waiter.wait(0) for waiter in (other, again, one)] == [True, True, False]


async def test_followers_of_the_fan_out_follow_its_log(listening: Listening) -> None:
    heard: list[int] = []
    listening.world.engine.fanout.subscribe(lambda placed: heard.append(len(placed)))
    await listening.world.create_room()
    assert heard == [4]
    with pytest.raises(AssertionError):
        fanout_of(set()).subscribe(lambda placed: None)
