"""Turns: shares for causes, kinds and servers; a reserve; short queues; fairness."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest

from federation.causes import Cause, CauseKind, caused_by
from federation.events.ids import ServerName
from federation.limits import (
    FETCHES_PER_SERVER_AND_CAUSE_MAX,
    FETCHES_PER_SERVER_MAX,
    FETCHES_RESERVED,
    FETCHES_RESERVED_PER_CAUSE_MAX,
)
from federation.transport.scheduling.scheduler import SHARES, FetchScheduler, NoTurn
from tests.federation.transport.memory_ports import JumpingClock, until

ADDRESS = SHARES[CauseKind.ADDRESS]
MALLORY = Cause(CauseKind.ADDRESS, "192.0.2.66")
HONEST = Cause(CauseKind.ADDRESS, "192.0.2.1")


def hole(number: int) -> ServerName:
    return ServerName(f"hole{number}.test")


class World:
    """A scheduler, and holders of turns that a test ends."""

    def __init__(self, neighbours: Sequence[ServerName] = ()) -> None:
        self.clock = JumpingClock()
        self.neighbours = set(neighbours)
        self.asked: list[ServerName] = []
        self.scheduler = FetchScheduler(self.clock, self._is_neighbour)
        self.stack = AsyncExitStack()

    async def _is_neighbour(self, server: ServerName) -> bool:
        self.asked.append(server)
        return server in self.neighbours

    async def hold(self, cause: Cause, server: ServerName) -> None:
        """Takes a turn that lasts until `stack` is closed."""
        with caused_by(cause):
            await self.stack.enter_async_context(self.scheduler.turn(server))

    async def hold_all(self, cause: Cause, count: int) -> None:
        """Takes turns at that many servers."""
        for number in range(count):
            await self.hold(cause, ServerName(f"h{number}.{cause.name}.test"))

    async def take(self, cause: Cause, server: ServerName, done: list[ServerName]) -> None:
        """Takes a turn, notes it and leaves."""
        with caused_by(cause):
            async with self.scheduler.turn(server):
                done.append(server)


async def test_a_cause_has_its_share_and_others_theirs() -> None:
    world = World()
    await world.hold_all(MALLORY, ADDRESS.at_once)
    assert not world.asked
    done: list[ServerName] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(world.take(MALLORY, hole(99), done))
        await until(lambda: world.asked == [hole(99)])
        await world.take(HONEST, ServerName("honest.test"), done)
        assert done == ["honest.test"]
        await world.stack.aclose()
    assert done == ["honest.test", hole(99)]


async def test_all_causes_of_a_kind_together_leave_room_for_other_kinds() -> None:
    world = World()
    for number in range(ADDRESS.at_once_of_kind):
        await world.hold(Cause(CauseKind.ADDRESS, str(number // ADDRESS.at_once)), hole(number))
    done: list[ServerName] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(world.take(HONEST, ServerName("waits.test"), done))
        await until(lambda: bool(world.asked))
        for kind in (CauseKind.SERVER, CauseKind.USER, CauseKind.OWN):
            await world.take(Cause(kind, "a"), ServerName("b.test"), done)
        assert done == ["b.test"] * 3
        await world.stack.aclose()
    assert done[3:] == ["waits.test"]


async def test_a_server_that_hangs_holds_up_those_alone_who_ask_it() -> None:
    world = World()
    causes = [Cause(CauseKind.SERVER, name) for name in "abc"]
    for _ in range(FETCHES_PER_SERVER_AND_CAUSE_MAX):
        await world.hold(causes[0], hole(1))
    done: list[ServerName] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(world.take(causes[0], hole(1), done))
        await until(lambda: len(world.asked) == 1)
        for _ in range(FETCHES_PER_SERVER_MAX - FETCHES_PER_SERVER_AND_CAUSE_MAX):
            await world.hold(causes[1], hole(1))
        group.create_task(world.take(causes[2], hole(1), done))
        await until(lambda: len(world.asked) == 2)
        for cause in causes:
            await world.take(cause, ServerName("up.test"), done)
        assert done == ["up.test"] * 3
        await world.stack.aclose()
    assert done[3:] == [hole(1)] * 2


async def test_places_are_kept_for_servers_that_share_a_room() -> None:
    neighbours = [ServerName(f"n{number}.test") for number in range(FETCHES_RESERVED + 1)]
    world = World(neighbours)
    await world.hold_all(MALLORY, ADDRESS.at_once)
    for server in neighbours[:FETCHES_RESERVED_PER_CAUSE_MAX]:
        await world.hold(MALLORY, server)
    done: list[ServerName] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(world.take(MALLORY, neighbours[-1], done))
        await until(lambda: world.asked[-1] == neighbours[-1])
        assert not done, "no cause has the whole reserve"
        await world.take(HONEST, neighbours[-1], done)
        await world.stack.aclose()
    assert done == [neighbours[-1]] * 2


async def test_the_reserve_ends() -> None:
    neighbours = [ServerName(f"n{number}.test") for number in range(FETCHES_RESERVED + 1)]
    world = World(neighbours)
    per_cause = FETCHES_RESERVED_PER_CAUSE_MAX
    users = [Cause(CauseKind.SERVER, str(n)) for n in range(FETCHES_RESERVED // per_cause + 1)]
    share = SHARES[CauseKind.SERVER]
    for cause in users:
        await world.hold_all(cause, share.at_once)
    for number, server in enumerate(neighbours[:FETCHES_RESERVED]):
        await world.hold(users[number // per_cause], server)
    done: list[ServerName] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(world.take(users[-1], neighbours[-1], done))
        await until(lambda: world.asked[-1] == neighbours[-1])
        assert not done
        await world.stack.aclose()
    assert done == [neighbours[-1]]


async def test_a_queue_is_short_and_the_wait_ends() -> None:
    world = World()
    await world.hold_all(MALLORY, ADDRESS.at_once)
    done: list[ServerName] = []
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(_refused(world, MALLORY, hole(100 + number)))
            for number in range(ADDRESS.waiting)
        ]
        await until(lambda: len(world.asked) == ADDRESS.waiting)
        assert await _refused(world, MALLORY, hole(99)), "the queue is full"
        await world.take(HONEST, ServerName("honest.test"), done)
        world.clock.jump(ADDRESS.wait_s + 0.01)
    assert all(task.result() for task in waiting)
    assert done == ["honest.test"]
    await world.stack.aclose()
    await world.take(MALLORY, hole(1), done)
    assert not world.scheduler._waiting, "nothing is left behind"


async def test_a_free_place_goes_to_the_causes_by_turns() -> None:
    world = World()
    one, two = (Cause(CauseKind.SERVER, name) for name in "ab")
    for cause in (one, two, Cause(CauseKind.SERVER, "c")):
        for _ in range(FETCHES_PER_SERVER_MAX // 3):
            await world.hold(cause, hole(1))
    order: list[Cause] = []

    async def take(cause: Cause) -> None:
        with caused_by(cause):
            async with world.scheduler.turn(hole(1)):
                order.append(cause)

    async with asyncio.TaskGroup() as group:
        for cause in [one] * 5 + [two] * 2:
            group.create_task(take(cause))
        await until(lambda: len(world.asked) == 7)
        await world.stack.aclose()
    assert order[:4] in ([one, two, one, two], [two, one, two, one])
    assert len(order) == 7


async def test_whoever_gives_up_leaves_no_place_taken() -> None:
    world = World()
    await world.hold_all(MALLORY, ADDRESS.at_once)
    done: list[ServerName] = []
    gone = asyncio.ensure_future(world.take(MALLORY, hole(50), done))
    await until(lambda: world.asked == [hole(50)])
    gone.cancel()
    await asyncio.wait([gone])
    # cancelled in the very moment in which it was granted a place
    late = asyncio.ensure_future(world.take(MALLORY, hole(51), done))
    await until(lambda: world.asked == [hole(50), hole(51)])
    await world.stack.aclose()
    late.cancel()
    await asyncio.wait([late])
    assert not done
    assert not world.scheduler._of_cause
    assert not world.scheduler._of_server
    assert not world.scheduler._waiting_of_kind


async def _refused(world: World, cause: Cause, server: ServerName) -> bool:
    with caused_by(cause), pytest.raises(NoTurn):
        async with world.scheduler.turn(server):
            pass
    return True
