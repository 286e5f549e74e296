"""State resolution through the engine: what it costs, what it loads, and that it agrees with the
pure algorithm over whole states."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from types import FrameType, TracebackType
from typing import Any

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, UserId
from federation.events.room_versions import room_version
from federation.graph.resolution.auth_chains import AuthChains
from federation.graph.resolution.chains import Reached, auth_chain
from federation.graph.resolution.state_resolution import resolve, resolve_deltas
from homeserver import limits
from homeserver.engine.rooms import resolver
from homeserver.engine.rooms import rooms as engine_rooms
from homeserver.engine.rooms.citations import CitationIndex
from homeserver.engine.rooms.room import Room, branches_of
from tests.federation.graph.large_room import ADMIN, LEVELS, RULES, LargeRoom, fork_of, member_of
from tests.homeserver.engine.large_engine_room import (
    LargeWorld,
    large_world,
    message,
    stored,
)

VERSIONS = ["1", "2", "11", "12"]


class Instructions:
    """Counts the interpreter's instructions in a block: work as a number that is the same on any
    machine."""

    def __init__(self) -> None:
        self.count = 0

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.count += 1
        return self._trace

    def __enter__(self) -> Instructions:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        sys.settrace(self._before)


def as_resolved(room: Room, events: dict[EventId, Event]) -> dict[Any, EventId]:
    """The heads' whole states, resolved by the pure algorithm without any index."""
    states = [{key: ref.event_id for key, ref in head.state.items()} for head in room.view.heads]
    return dict(
        resolve(room.version, states, event=events.__getitem__, is_rejected=lambda event_id: False)
    )


async def test_work_of_a_fork_is_the_same_in_a_room_of_1000_as_in_one_of_10() -> None:
    counts = [await _work_of_a_fork(members) for members in (10, 1000)]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


async def _work_of_a_fork(members: int) -> int:
    large = LargeRoom(room_version("12"), members)
    tables = stored(large)
    one, two = fork_of(large)
    own = large.beside([lambda: large.add("m.two", "", {}, cites=(LEVELS,))])
    async with large_world(large, tables) as world:
        head = (await world.room()).view.heads[0].event_id
        await world.branch([*two, *own], head)
        parent = await world.branch(one, head)
        first, second = (message(large, number) for number in range(2))
        parent = (await world.accept(first, [parent])).event_id
        world.looks.clear()
        with Instructions() as instructions:
            await world.accept(second, [parent])
        assert world.looks == ["by_id"], "one look: is the new event stored already?"
        assert len((await world.room()).view.heads) == 2
    return instructions.count


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_fork_resolves_as_its_whole_states_do(version: str) -> None:
    large = LargeRoom(room_version(version), 12)
    tables = stored(large)
    one, two = fork_of(large)
    async with large_world(large, tables) as world:
        head = (await world.room()).view.heads[0].event_id
        await world.branch(two, head)
        await world.branch(one, head)
        room = await world.room()
        assert len(room.view.heads) == 2
        state = {key: ref.event_id for key, ref in room.view.state.items()}
        assert state == as_resolved(room, large.events)
        assert state[LEVELS] == one[1].event_id
        assert state[RULES] == one[2].event_id
        chain = await world.engine.rooms.loader.chain(room.row_id, room.view.chain[-1].row_id)
        assert room.view.state == world.engine.rooms.state_of(room, chain)


def renamed(large: LargeRoom) -> LargeRoom:
    """Member 1 set a name, left and came back, member 2 set another; then both left names behind:
    what these old events rest on is in the chains of a few only."""
    user = member_of(1)
    large.levels({**_creators(large), user: 60, member_of(2): 60})
    large.add("m.old", "", {"by": 1}, cites=(LEVELS,), sender=user)
    large.member(user, "leave")
    large.member(user, "join")
    large.levels({**_creators(large), user: 60, member_of(2): 60, member_of(3): 60})
    large.settle()
    return large


def _creators(large: LargeRoom) -> dict[str, int]:
    return {} if large.version.creators_are_privileged else {ADMIN: 100}


async def _fork_on_old(large: LargeRoom, world: LargeWorld) -> Room:
    """One branch replaces the old entry, the other says something else beside it."""
    new = large.beside([lambda: large.add("m.old", "", {"by": 2}, cites=(LEVELS,))])
    other = large.beside([lambda: large.add("m.else", "", {}, cites=(LEVELS,))])
    head = (await world.room()).view.heads[0].event_id
    await world.branch(new, head)
    world.looks.clear()
    await world.branch(other, head)
    return await world.room()


async def test_an_old_event_that_its_successor_cites_needs_no_index() -> None:
    large = renamed(LargeRoom(room_version("11"), 12))
    async with large_world(large) as world:
        room = await _fork_on_old(large, world)
        assert "state_events" not in world.looks
        state = {key: ref.event_id for key, ref in room.view.state.items()}
        assert state == as_resolved(room, large.events)


def superseded(large: LargeRoom) -> LargeRoom:
    """Two members joined under join rules that were replaced. One set an entry, and then joined
    anew by an event that does not cite the first join: nothing in the state leads to that one, and
    to the rules only what the other member's join cites."""
    user = member_of(1)
    large.levels({**_creators(large), user: 60})
    large.add("m.room.join_rules", "", {"join_rule": "knock"}, cites=(LEVELS,))
    large.add("m.room.join_rules", "", {"join_rule": "public"}, cites=(LEVELS,))
    large.member(user, "join")
    large.add("m.old", "", {"by": 1}, cites=(LEVELS,), sender=user)
    large.add("m.room.member", user, {"membership": "join"}, cites=(LEVELS, RULES), sender=ADMIN)
    large.member(member_of(2), "join")
    large.add("m.room.join_rules", "", {"join_rule": "invite"}, cites=(LEVELS,))
    large.add("m.room.join_rules", "", {"join_rule": "public"}, cites=(LEVELS,))
    large.settle()
    return large


class Asked:
    """What resolutions asked of the index, and what they were told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[EventId, bool] = {}
        monkeypatch.setattr(resolver, "resolve_deltas", self._resolve)

    def _resolve(self, *states: Any, reached: Reached, **options: Any) -> Any:
        def noted(event_ids: Collection[EventId], starts: Collection[EventId]) -> Any:
            found = reached(event_ids, starts)
            self.answers.update((event_id, event_id in found) for event_id in event_ids)
            return found

        return resolve_deltas(*states, reached=noted, **options)


@pytest.mark.parametrize("bound", [50_000, 5])
async def test_older_citations_are_loaded_once_or_scanned_past_the_bound(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROOM_CITING_EVENTS", bound)
    monkeypatch.setattr(limits, "CITING_EVENTS_PAGE", 3)
    asked = Asked(monkeypatch)
    large = superseded(LargeRoom(room_version("11"), 12))
    async with large_world(large) as world:
        room = await _fork_on_old(large, world)
        assert "state_events" in world.looks
        state = {key: ref.event_id for key, ref in room.view.state.items()}
        assert state == as_resolved(room, large.events)
        agreed = [event_id for key, event_id in large.base.items() if key[0] != "m.old"]
        chain = auth_chain(agreed, large.load)
        assert set(asked.answers.values()) == {True, False}
        assert asked.answers == {event_id: event_id in chain for event_id in asked.answers}
        world.looks.clear()
        heads = [head.event_id for head in room.view.heads]
        await world.accept(message(large, 1), [heads[0]])
        assert ("state_events" in world.looks) == (bound == 5)


async def test_what_a_resolution_loads_into_a_room_counts_in_its_size() -> None:
    large = superseded(LargeRoom(room_version("11"), 12))
    async with large_world(large) as world:
        room = await _fork_on_old(large, world)
        rooms = world.engine.rooms
        room.citations, room.auth_chains = CitationIndex(), AuthChains()
        rooms.grew(room)
        before = rooms._hot.bytes
        branches = [state for _, state in branches_of(room.view.heads)]
        numbers = world.engine.committer.numbers
        await resolver.StateResolver(world.engine.store, rooms).resolve(
            room, branches, numbers.take
        )
        assert room.citations.bytes > 0
        assert rooms._hot.bytes == room.bytes > before


async def test_the_state_after_an_older_event_is_made_of_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = LargeRoom(room_version("12"), 12)
    async with large_world(large) as world:
        room = await world.room()
        whole, old = dict(room.view.state), room.view.heads[0].event_id
        [topic] = large.beside([lambda: large.add("m.t", "", {}, cites=(LEVELS,))])
        await world.accept(topic, [old])

        def refused(chain: object) -> object:
            raise AssertionError("the whole state is walked")

        monkeypatch.setattr(engine_rooms, "state_of", refused)
        found = await world.engine.rooms.state_after(room, old)
        assert found is not None
        assert dict(found) == whole


async def test_what_a_resolution_brings_back_may_not_be_stored_yet() -> None:
    """The admin changes the power levels, a moderator changes them again, and is kicked beside it:
    the admin's levels, which no branch has, come back while all of it waits for the commit."""
    large = LargeRoom(room_version("12"), 12)
    user = member_of(1)
    large.levels({user: 50})
    large.settle()
    async with large_world(large) as world:
        first, second = large.beside(
            [
                lambda: large.levels({user: 50, member_of(2): 10}),
                lambda: large.levels({user: 50, member_of(3): 5}, sender=user),
            ]
        )
        [kick] = large.beside([lambda: large.member(user, "leave", sender=ADMIN)])
        room = await world.room()
        parent = room.view.heads[0].event_id
        released = asyncio.Event()

        async def held(when: str) -> None:
            await released.wait()

        world.engine.committer.fault = held
        async with asyncio.TaskGroup() as group:
            for event, after in ((first, parent), (second, first.event_id), (kick, parent)):
                group.create_task(world.accept(event, [after]))
                await _until(partial(room.staged_events.__contains__, event.event_id))
            released.set()
        assert room.view.state[LEVELS].event_id == first.event_id
        row_id = world.tables.events[first.event_id]["event_row_id"]
        assert room.view.state[LEVELS].row_id == row_id


async def _until(is_so: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


@pytest.mark.parametrize("version", ["2", "12"])
async def test_forked_joins_cost_in_line_with_their_number(version: str) -> None:
    """Each is a head with a state of its own."""
    large = LargeRoom(room_version(version), 10)
    users = [UserId(f"@new{number}:other") for number in range(81)]
    joins = large.beside([lambda user=user: large.member(user, "join") for user in users])
    async with large_world(large) as world:
        parent = (await world.room()).view.heads[0].event_id
        counts = await _counts(world, joins, lambda last: parent, (20, 80))
        entries = sum(len(one["added"]) + len(one["removed"]) for one in _snapshots(world))
    assert counts[80] < 1.3 * 4 * counts[20]
    assert entries < 20 * len(joins)


@pytest.mark.parametrize("version", ["2", "12"])
async def test_a_side_branch_of_power_levels_costs_in_line_with_its_length(version: str) -> None:
    large = LargeRoom(room_version(version), 10)

    def levels(number: int) -> Event:
        own: dict[str, int] = {} if large.version.creators_are_privileged else {ADMIN: 100}
        return large.levels({**own, "@new:other": number % 50})

    side = large.beside([partial(levels, number) for number in range(242)])
    main = large.beside([lambda: large.add("m.room.topic", "", {"topic": "m"}, cites=(LEVELS,))])
    async with large_world(large) as world:
        parent = (await world.room()).view.heads[0].event_id
        await world.accept(main[0], [parent])
        side[0] = await world.accept(side[0], [parent])
        counts = await _counts(world, side[1:], lambda last: last or side[0].event_id, (30, 240))
    assert counts[240] < 1.1 * 8 * counts[30]


def _snapshots(world: LargeWorld) -> Collection[Any]:
    return world.tables.snapshots.values()


async def _counts(
    world: LargeWorld,
    events: Sequence[Event],
    parent_of: Callable[[EventId | None], EventId],
    wanted: Collection[int],
) -> dict[int, int]:
    """Hands events in, one after the other; the instructions that some of them took."""
    counts: dict[int, int] = {}
    last: EventId | None = None
    for number, event in enumerate(events):
        parents = [parent_of(last)]
        if number in wanted:
            with Instructions() as instructions:
                last = (await world.accept(event, parents)).event_id
            counts[number] = instructions.count
        else:
            last = (await world.accept(event, parents)).event_id
    return counts
