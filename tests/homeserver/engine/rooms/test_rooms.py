"""Rooms in memory: which go when memory runs out, and at what cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import msgspec
import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, RoomId, ServerName
from federation.events.room_versions import ROOM_VERSIONS
from homeserver import limits
from homeserver.engine.log.staging import empty_view
from homeserver.engine.rooms.room import NotLoaded, Room, RoomGone, Superseded
from homeserver.engine.rooms.rooms import Rooms, retry_superseded
from tests.homeserver.engine.engine_world import ALICE, HS1
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    Here,
    ban,
    enter,
    here,
    room_of_bob,
    topic,
    unban,
)
from tests.simulation.memory_store import MemoryStore

SIZE = 10_000


class Measured(Room):
    """A room whose size the test sets; `looks` counts how often it is asked for."""

    looks = 0
    size = SIZE

    @property
    def bytes(self) -> int:
        """The size that was set."""
        type(self).looks += 1
        return self.size


class FakeLoader:
    """Makes rooms out of nothing."""

    async def load(self, room_ids: Any) -> dict[RoomId, Room]:
        """A room for each ID."""
        return {room_id: made(room_id) for room_id in room_ids}


class NoLoader:
    """Knows no room."""

    async def load(self, room_ids: Any) -> dict[RoomId, Room]:
        """None."""
        return {}


def made(room_id: RoomId) -> Measured:
    return Measured(room_id, 1, ROOM_VERSIONS["11"], empty_view(1))


def name(number: int) -> RoomId:
    return RoomId(f"!{number}:here.example")


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Rooms:
    """A registry whose budget holds 10,000 rooms."""
    monkeypatch.setattr(limits, "HOT_ROOMS_BYTES", 10_000 * SIZE)
    Measured.looks = 0
    registry = Rooms(cast(Any, None), ServerName("here.example"))
    registry.loader = cast(Any, FakeLoader())
    return registry


async def fill(rooms: Rooms, count: int = 10_000) -> None:
    await rooms.get_many([name(number) for number in range(count)])


async def test_a_load_under_pressure_costs_the_same_however_many_rooms_are_hot(
    rooms: Rooms,
) -> None:
    await fill(rooms)
    Measured.looks = 0
    for number in range(10_000, 11_000):
        await rooms.get(name(number))
        rooms.add(made(name(-number)))
    assert Measured.looks <= 2 * 3_000
    assert [rooms.hot(name(number)) for number in range(2_000)] == [None] * 2_000
    assert rooms.hot(name(2_000)) is not None
    assert rooms.hot(name(10_999)) is not None


async def test_a_use_of_a_room_does_not_read_its_size(rooms: Rooms) -> None:
    room = made(name(0))
    rooms.add(room)
    Measured.looks = 0
    assert rooms.hot(name(0)) is room
    async with rooms.locked(name(0)):
        pass
    assert Measured.looks == 0
    rooms.grew(room)
    assert Measured.looks == 1


async def test_a_room_that_was_used_stays_and_the_longest_unused_goes(rooms: Rooms) -> None:
    await fill(rooms)
    used = rooms.hot(name(0))
    rooms.add(made(name(10_000)))
    assert rooms.hot(name(0)) is used
    assert rooms.hot(name(1)) is None


@pytest.mark.parametrize("how", ["holders", "unsettled", "lock"])
async def test_a_room_in_use_is_passed_over(rooms: Rooms, how: str) -> None:
    await fill(rooms)
    room = rooms.hot(name(0))
    assert room is not None
    for number in range(1, 10_000):
        rooms.hot(name(number))
    if how == "lock":
        await room.lock.acquire()
        rooms.add(made(name(10_000)))
    else:
        setattr(room, how, 1)
        rooms.add(made(name(10_000)))
    assert rooms.hot(name(0)) is room
    assert rooms.hot(name(1)) is None


async def test_a_room_stays_in_memory_while_its_lock_is_waited_for(rooms: Rooms) -> None:
    room = made(name(0))
    rooms.add(room)

    async def stage() -> Room:
        async with rooms.locked(name(0)) as locked:
            assert (locked.holders, locked.lock.locked()) == (1, True)
            return locked

    await room.lock.acquire()
    waiting = asyncio.get_running_loop().create_task(stage())
    while not room.holders:
        await asyncio.sleep(0)
    room.lock.release(None)
    await fill(rooms, 11_000)
    assert await waiting is room
    assert (room.holders, room.lock.locked(), rooms.hot(name(0))) == (0, False, room)


async def test_a_room_that_came_to_nothing_meanwhile_is_not_locked(rooms: Rooms) -> None:
    room = made(name(0))
    rooms.add(room)

    async def stage() -> None:
        async with rooms.locked(name(0)):
            raise AssertionError("nothing can be staged in it")

    await room.lock.acquire()
    waiting = asyncio.get_running_loop().create_task(stage())
    while not room.holders:
        await asyncio.sleep(0)
    rooms.drop(name(0))
    room.lock.release(None)
    with pytest.raises(RoomGone):
        await waiting
    assert (room.holders, room.lock.locked()) == (0, False)


async def test_a_room_that_is_unknown_here_is_not_locked(rooms: Rooms) -> None:
    rooms.loader = cast(Any, NoLoader())
    with pytest.raises(RoomGone):
        async with rooms.locked(name(0)):
            pass


async def test_a_wait_for_the_lock_that_is_cancelled_leaves_nothing_behind(rooms: Rooms) -> None:
    room = made(name(0))
    rooms.add(room)

    async def stage() -> None:
        async with rooms.locked(name(0)):
            raise AssertionError("the lock isn't free")

    async with rooms.locked(name(0)):
        waiting = asyncio.get_running_loop().create_task(stage())
        while room.holders < 2:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (room.holders, room.lock.locked()) == (1, True)
    assert (room.holders, room.lock.locked()) == (0, False)
    async with rooms.locked(name(0)) as locked:
        assert locked is room


async def test_a_block_that_fails_releases_the_room_and_raises_its_error(rooms: Rooms) -> None:
    room = made(name(0))
    rooms.add(room)
    before = room.staged

    async def stage() -> None:
        async with rooms.locked(name(0)):
            room.staged = msgspec.structs.replace(before, live_index=1)
            raise ValueError("it can't be staged")

    for _ in range(2):
        with pytest.raises(ValueError, match="it can't be staged"):
            await stage()
        assert (room.holders, room.lock.locked()) == (0, False)
        assert room.staged is before


async def test_an_error_after_a_failed_batch_means_that_the_step_is_superseded(
    rooms: Rooms,
) -> None:
    room = made(name(0))
    rooms.add(room)

    async def stage() -> None:
        async with rooms.locked(name(0)):
            room.discard_staged()
            raise LookupError

    with pytest.raises(Superseded):
        await stage()
    assert (room.holders, room.lock.locked()) == (0, False)


async def test_the_wait_is_bounded_also_behind_a_task_that_is_about_to_get_the_lock(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = made(name(0))
    rooms.add(room)
    next_done = asyncio.Event()

    async def next_owner() -> None:
        await room.lock.acquire()
        await next_done.wait()
        room.lock.release(None)

    await room.lock.acquire()
    owner = asyncio.get_running_loop().create_task(next_owner())
    await asyncio.sleep(0)
    monkeypatch.setattr(limits, "COMMIT_ANSWER_S", 0)
    room.lock.release(None)  # free now, but promised to the task that waits
    assert not room.lock.locked()
    with pytest.raises(MatrixError) as refused:
        async with asyncio.timeout(40), rooms.locked(name(0)):
            pass
    assert (refused.value.status, room.holders) == (503, 0)
    next_done.set()
    await owner


async def test_a_superseded_step_is_repeated_a_bounded_number_of_times() -> None:
    failures = 0

    async def step(fails: int) -> str:
        nonlocal failures
        failures += 1
        if failures <= fails:
            raise Superseded if failures % 2 else RoomGone
        return "staged"

    assert await retry_superseded(partial(step, limits.STAGING_TRIES - 1)) == "staged"
    assert failures == limits.STAGING_TRIES
    failures = 0
    with pytest.raises(MatrixError) as refused:
        await retry_superseded(partial(step, limits.STAGING_TRIES))
    assert (refused.value.status, failures) == (503, limits.STAGING_TRIES)


async def test_any_other_error_of_a_step_ends_it() -> None:
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        raise LookupError

    with pytest.raises(LookupError):
        await retry_superseded(step)
    assert calls == 1


async def test_rooms_in_use_do_not_make_each_load_walk_all_of_them(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(rooms)
    for number in range(500):
        room = rooms.hot(name(number))
        assert room is not None
        room.holders = 1
    for number in range(500, 10_000):
        rooms.hot(name(number))
    monkeypatch.setattr(limits, "HOT_ROOMS_PASSED_OVER", 100)
    for number in range(10_000, 10_004):  # each passes over a hundred
        rooms.add(made(name(number)))
        assert rooms.hot(name(500)) is not None
    for number in range(10_004, 10_010):
        rooms.add(made(name(number)))
    assert all(rooms.hot(name(number)) is not None for number in range(500))
    assert rooms._hot.bytes == 10_000 * SIZE


async def test_a_room_that_grew_makes_others_go(rooms: Rooms) -> None:
    await fill(rooms)
    room = rooms.hot(name(9_999))
    assert isinstance(room, Measured)
    room.size = 11 * SIZE
    rooms.grew(room)
    assert len(rooms._hot) == 9_990
    assert rooms.hot(name(9_999)) is room
    rooms.drop(room.room_id)
    assert rooms._hot.bytes == 9_989 * SIZE
    rooms.grew(room)  # it isn't here any more
    assert rooms._hot.bytes == 9_989 * SIZE


async def test_a_few_rooms_stay_however_large(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HOT_ROOMS_BYTES", 1)
    for number in range(limits.HOT_ROOMS_MIN + 1):
        rooms.add(made(name(number)))
    assert rooms.hot(name(0)) is None
    assert all(rooms.hot(name(n)) is not None for n in range(1, limits.HOT_ROOMS_MIN + 1))


# Cold rooms


class HeldLoader:
    """Loads rooms once it is let go on; notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[RoomId]] = []
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def load(self, room_ids: Any) -> dict[RoomId, Room]:
        """A room for each ID, or the error."""
        self.asked.append(list(room_ids))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return {room_id: made(room_id) for room_id in room_ids}


@pytest.fixture
def loader(rooms: Rooms) -> HeldLoader:
    held_loader = HeldLoader()
    rooms.loader = cast(Any, held_loader)
    return held_loader


async def pass_loop() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_cold_room_is_loaded_once_for_all_who_wait(
    rooms: Rooms, loader: HeldLoader
) -> None:
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(rooms.get(name(0))) for _ in range(3)]
    await pass_loop()
    both = loop.create_task(rooms.get_many([name(1), name(0)]))
    await pass_loop()
    assert loader.asked == [[name(0)], [name(1)]]
    loader.go_on.set()
    found = await asyncio.gather(*waiting)
    assert found[0] is not None
    assert all(one is found[0] for one in found)
    assert (await both)[name(0)] is found[0]
    assert await rooms.get(name(0)) is found[0]
    assert len(loader.asked) == 2


async def test_who_waits_for_a_failing_load_gets_its_error_and_the_next_one_tries_again(
    rooms: Rooms, loader: HeldLoader
) -> None:
    loop = asyncio.get_running_loop()
    loader.error = ConnectionError("gone")
    waiting = [loop.create_task(rooms.get(name(0))) for _ in range(3)]
    await pass_loop()
    loader.go_on.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert outcomes == [loader.error] * 3
    loader.error = None
    assert await rooms.get(name(0)) is not None
    assert loader.asked == [[name(0)], [name(0)]]


async def test_who_is_cancelled_while_waiting_stops_no_load(
    rooms: Rooms, loader: HeldLoader
) -> None:
    loop = asyncio.get_running_loop()
    first, second, third = (loop.create_task(rooms.get(name(0))) for _ in range(3))
    await pass_loop()
    second.cancel()
    await asyncio.wait([second])
    loader.go_on.set()
    room = await first
    assert room is not None
    assert await third is room


async def test_a_room_that_is_only_known_by_its_id_is_none(rooms: Rooms) -> None:
    rooms.loader = cast(Any, NoLoader())
    assert await rooms.get(name(0)) is None
    assert await rooms.get_many([name(0), name(1)]) == {}


async def test_a_room_of_our_own_that_was_made_during_a_load_stays(
    rooms: Rooms, loader: HeldLoader
) -> None:
    loading = asyncio.get_running_loop().create_task(rooms.get(name(0)))
    await pass_loop()
    own = made(name(0))
    rooms.add(own)
    loader.go_on.set()
    assert await loading is own
    with pytest.raises(AssertionError):
        rooms.add(made(name(0)))  # a room is made once


# States and events


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made_server:
        yield made_server


async def test_the_states_around_any_event_are_those_of_the_graph(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    left, right = graph.add(topic("left", BOB), last), graph.add(ban(CAROL), last)
    await server.accept(left, right, graph.add(topic("both", BOB), left, right))
    oracle = graph.oracle
    cold = Rooms(MemoryStore(server.tables), HS1)
    for registry in (server.engine.rooms, cold):
        room = await registry.get(server.room_id)
        assert room is not None
        for event_id in graph.events:
            before = await registry.state_before(room, event_id)
            after = await registry.state_after(room, event_id)
            assert before is not None
            assert after is not None
            assert {key: ref.event_id for key, ref in before.items()} == oracle.before[event_id]
            assert {key: ref.event_id for key, ref in after.items()} == oracle.after(event_id)
        assert await registry.state_before(room, EventId("$unknown")) is None
        assert await registry.state_after(room, EventId("$unknown")) is None
        numbers = [server.row(one)["snapshot_after"] for one in graph.events.values()]
        chains = await registry.chains(room, numbers)
        assert {number: chain[-1].row_id for number, chain in chains.items()} == {
            number: number for number in numbers
        }
        for number in numbers:
            assert await registry.chain(room, number) == chains[number]


async def test_a_step_is_repeated_until_its_events_are_loaded(
    server: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room_of_bob(server)
    rooms, wanted = server.engine.rooms, list(server.graph.events)[:4]
    for event_id in wanted:
        rooms.memory.forget_event(event_id)
    tries = 0

    def step() -> list[EventId]:
        nonlocal tries
        tries += 1
        return [rooms.memory.cached_event(one).event_id for one in wanted]

    assert await rooms.loading(step) == wanted
    assert tries == 5
    monkeypatch.setattr(limits, "STAGING_LOADS", 3)
    tries = 0

    def endless() -> None:
        nonlocal tries
        tries += 1
        raise NotLoaded(EventId("$nowhere"))

    with pytest.raises(AssertionError):
        await rooms.loading(endless)
    assert tries == 3


async def test_the_events_of_some_keys_of_a_state_are_found(server: Here) -> None:
    last = await room_of_bob(server)
    room = await server.room()
    keys = [("m.room.member", BOB), ("m.room.create", ""), ("m.room.topic", "")]
    found = await server.engine.rooms.state_events(room.view.state, keys)
    assert found.keys() == set(keys[:2])
    assert all(event.key == key for key, event in found.items())
    assert last.event_id in {ref.event_id for ref in room.view.state.values()}


async def test_the_end_of_a_stay_is_the_last_of_them(server: Here) -> None:
    last = await room_of_bob(server)
    room, rooms, graph = await server.room(), server.engine.rooms, server.graph
    assert await rooms.end_of_stay(room, ALICE) is None
    ends = []
    for what in (ban(ALICE), unban(ALICE), enter(ALICE), ban(ALICE)):
        last = graph.add(what, last)
        await server.accept(last)
        ends.append((server.engine.committer.position, last.event_id))
    assert await rooms.end_of_stay(room, ALICE) == ends[-1]


async def test_a_cancelled_load_cancels_nobody_else(rooms: Rooms, loader: HeldLoader) -> None:
    """A client that hangs up must not end the requests of others, or a background task."""
    loop = asyncio.get_running_loop()
    first = loop.create_task(rooms.get(name(0)))
    await pass_loop()
    others = [loop.create_task(rooms.get(name(0))) for _ in range(2)]
    await pass_loop()
    first.cancel()
    await asyncio.wait([first])
    loader.go_on.set()
    assert first.cancelled()
    assert all(room is not None for room in await asyncio.gather(*others))
    assert loader.asked == [[name(0)], [name(0)]]
