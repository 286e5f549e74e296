"""One room in memory: its two views, its lock, and what it keeps beside its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import immutables
import msgspec
import pytest

from federation.errors import MatrixError
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.events.room_versions import ROOM_VERSIONS
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.entries import Placed, StateChange
from homeserver.engine.log.staging import StagedEvent, empty_view
from homeserver.engine.rooms.room import (
    NotLoaded,
    Room,
    Superseded,
    branches_of,
    membership_counts,
)
from homeserver.engine.rooms.snapshots import StateMap, StateRef
from homeserver.storage.database import DatabaseUnavailable
from tests.homeserver.engine.engine_world import ALICE, World, draft, in_memory, message
from tests.homeserver.engine.history_world import BOB, CAROL, Graph, enter, topic
from tests.homeserver.engine.test_entries import event_entry
from tests.simulation.virtual_time import run_virtually

TOPIC = ("m.room.topic", "")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with in_memory() as made:
        yield made


def empty_room() -> Room:
    return Room(RoomId("!r:hs1"), 1, ROOM_VERSIONS["12"], empty_view(1))


async def room_of(world: World) -> Room:
    return await world.room(await world.create_room())


async def stage(world: World, room: Room, body: str) -> list[StagedEvent]:
    """Stages a topic, and a message after it."""
    await world.engine.committer.numbers.ready(10)
    stager = world.engine.writer.stager
    return [
        await stager.stage_draft(room, draft("m.room.topic", {"topic": body}, ""), None),
        await stager.stage_draft(room, message(body), None),
    ]


def is_quiet(room: Room) -> bool:
    """Is the writer's view the committed one, and nothing else left of what was staged?"""
    left = (room.staged_events, room.staged_refs, room.staged_missing)
    return room.staged is room.view and not any(left)


def heads(room: Room) -> list[EventId]:
    return [head.event_id for head in room.view.heads]


class Held:
    """Holds commits back; the next one fails if it is told so."""

    def __init__(self, world: World) -> None:
        self.go_on = asyncio.Event()
        self.fails = False
        world.engine.committer.fault = self._fault

    async def _fault(self, when: str) -> None:
        if when == "before":
            await self.go_on.wait()
            if self.fails:
                self.fails = False
                raise DatabaseUnavailable("gone")


# The lock: what is staged under it is queued, or taken back


async def test_what_is_not_queued_under_the_lock_is_taken_back(world: World) -> None:
    room = await room_of(world)
    was = room.view
    async with world.engine.rooms.locked(room.room_id):
        [_, said] = await stage(world, room, "not queued")
        assert room.staged is said.view
        assert said.event.event_id in room.staged_events
        assert TOPIC in room.staged.state
        assert room.view is was
    assert is_quiet(room)
    assert (room.view is was, room.generation, len(room.after)) == (True, 0, 0)
    sent = await world.say(room.room_id, "next")
    assert heads(room) == [sent]


async def test_what_is_queued_stays_staged_until_its_commit(world: World) -> None:
    room, held = await room_of(world), Held(world)
    was = room.view
    async with world.engine.rooms.locked(room.room_id):
        staged = await stage(world, room, "queued")
        done = world.engine.writer.enqueue(room, staged)
    assert room.staged is staged[1].view
    assert (room.view is was, room.is_in_use, room.lock.locked()) == (True, True, False)
    held.go_on.set()
    await done
    assert is_quiet(room)
    assert heads(room) == [staged[1].event.event_id]
    assert room.view.state[TOPIC].event_id == staged[0].event.event_id
    assert not room.is_in_use


@pytest.mark.parametrize("is_same_turn", [True, False])
async def test_only_what_was_staged_since_the_last_group_is_taken_back(
    world: World, is_same_turn: bool
) -> None:
    room, held = await room_of(world), Held(world)
    async with world.engine.rooms.locked(room.room_id):
        kept = await stage(world, room, "queued")
        done = world.engine.writer.enqueue(room, kept)
        if is_same_turn:
            await stage(world, room, "not queued")
    if not is_same_turn:
        async with world.engine.rooms.locked(room.room_id):
            await stage(world, room, "not queued")
    assert room.staged_events.keys() == {one.event.event_id for one in kept}
    assert room.staged_refs.keys() == {kept[0].event.event_id}
    assert room.staged is kept[1].view
    held.go_on.set()
    await done
    assert is_quiet(room)
    assert heads(room) == [kept[1].event.event_id]


async def test_a_commit_during_the_lock_is_the_ground_to_fall_back_to(world: World) -> None:
    room, held = await room_of(world), Held(world)
    async with world.engine.rooms.locked(room.room_id):
        staged = await stage(world, room, "queued")
        done = world.engine.writer.enqueue(room, staged)
    async with world.engine.rooms.locked(room.room_id):
        await stage(world, room, "not queued")
        held.go_on.set()
        await done
        assert room.staged is not room.view
    assert is_quiet(room)
    assert heads(room) == [staged[1].event.event_id]
    assert room.staged.position > 0


@pytest.mark.parametrize("is_queued", [True, False])
async def test_nothing_is_queued_on_a_batch_that_failed_meanwhile(
    world: World, is_queued: bool
) -> None:
    room, held = await room_of(world), Held(world)
    was = room.view
    async with world.engine.rooms.locked(room.room_id):
        first = world.engine.writer.enqueue(room, await stage(world, room, "fails"))

    async def stage_on_it() -> None:
        async with world.engine.rooms.locked(room.room_id):
            staged = await stage(world, room, "on top of it")
            held.fails = True
            held.go_on.set()
            await asyncio.wait([first])
            assert (room.lock.is_lost, room.generation) == (True, 1)
            if not is_queued:
                raise KeyError("an event that the failure discarded")
            world.engine.writer.enqueue(room, staged)

    with pytest.raises(Superseded):
        await stage_on_it()
    assert isinstance(first.exception(), MatrixError)
    assert is_quiet(room)
    assert room.view is was
    await world.say(room.room_id, "next")
    assert is_quiet(room)


@pytest.mark.parametrize("error", [AssertionError("x"), KeyError("x"), NotLoaded(EventId("$x"))])
async def test_a_fault_under_the_lock_is_told_if_no_batch_failed(
    world: World, error: Exception
) -> None:
    room = await room_of(world)

    async def fail() -> None:
        async with world.engine.rooms.locked(room.room_id):
            await stage(world, room, "x")
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert is_quiet(room)


@pytest.mark.parametrize("error", [MatrixError(403, "M_FORBIDDEN", "no"), ValueError("x")])
async def test_a_refusal_is_no_sign_of_discarded_events(world: World, error: Exception) -> None:
    room = await room_of(world)

    async def refuse() -> None:
        async with world.engine.rooms.locked(room.room_id):
            await stage(world, room, "x")
            room.discard_staged()
            raise error

    with pytest.raises(type(error)):
        await refuse()
    assert is_quiet(room)


async def test_a_fault_after_queueing_is_told_as_it_is(world: World) -> None:
    room, held = await room_of(world), Held(world)

    async def fail() -> None:
        async with world.engine.rooms.locked(room.room_id):
            done = world.engine.writer.enqueue(room, await stage(world, room, "queued"))
            held.fails = True
            held.go_on.set()
            await asyncio.wait([done])
            raise KeyError("a fault")

    with pytest.raises(KeyError):
        await fail()
    assert is_quiet(room)


async def test_a_failure_before_the_lock_was_taken_is_not_its_own(world: World) -> None:
    room = await room_of(world)
    async with world.engine.rooms.locked(room.room_id):
        await stage(world, room, "x")
        room.discard_staged()
    async with world.engine.rooms.locked(room.room_id):
        assert not room.lock.is_lost
        staged = await stage(world, room, "y")
        done = world.engine.writer.enqueue(room, staged)
    await done
    assert heads(room) == [staged[1].event.event_id]


def test_the_wait_for_the_lock_is_bounded() -> None:
    async def wait() -> None:
        room = empty_room()
        loop = asyncio.get_running_loop()

        async def busy() -> float:
            began_s = loop.time()
            with pytest.raises(MatrixError) as refused:
                await room.lock.acquire()
            assert refused.value.status == 503
            return loop.time() - began_s

        assert not await room.lock.acquire()
        waited_s = await asyncio.gather(busy(), busy(), busy())
        assert waited_s == pytest.approx([limits.COMMIT_ANSWER_S] * 3)
        room.lock.release(None)
        assert not await room.lock.acquire()

    run_virtually(wait())


async def test_the_lock_is_given_in_the_order_of_asking_and_past_who_left() -> None:
    room, order = empty_room(), list[str]()

    async def enter_as(name: str) -> None:
        assert await room.lock.acquire()  # it had to wait
        order.append(name)
        room.lock.release(None)

    await room.lock.acquire()
    tasks = [asyncio.ensure_future(enter_as(name)) for name in "abcde"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.sleep(0)
    room.lock.release(None)
    tasks[3].cancel()
    await asyncio.wait(tasks)
    assert order == ["a", "e"]
    assert not room.lock.locked()
    assert not await room.lock.acquire()


# Views


async def test_views_share_what_did_not_change(world: World) -> None:
    room = await room_of(world)
    before = room.view
    async with world.engine.rooms.locked(room.room_id):
        [named, said] = await stage(world, room, "x")
        assert named.view is not None
        assert said.view is not None
        assert said.view.state is named.view.state
        assert TOPIC not in before.state
        assert room.view is before


def test_a_failed_batch_gives_the_room_another_generation() -> None:
    room, graph = empty_room(), Graph()
    graph.begin()
    for number, event in enumerate(graph.events.values()):
        room.stage(StoredEvent(event), number)
    room.staged = msgspec.structs.replace(room.view, live_index=9)
    room.staged_missing[next(iter(graph.events))] = (EventId("$gone"),), True
    room.discard_staged()
    assert is_quiet(room)
    assert (room.generation, room.view.live_index) == (1, 0)
    assert not room.is_named(EventId("$gone"))
    room.discard_staged()
    assert room.generation == 2


# Staged events


def test_a_staged_event_is_known_until_it_is_unstaged() -> None:
    room, graph = empty_room(), Graph()
    state = graph.begin()
    said = graph.add(message("x", BOB), state)
    for number, event in enumerate([state, said]):
        room.stage(StoredEvent(event), 10 + number)
    assert room.staged_events.keys() == {state.event_id, said.event_id}
    assert room.staged_refs == {state.event_id: StateRef(state.event_id, 10)}
    room.staged_missing[said.event_id] = (), True
    known = room.unstage(said.event_id)
    assert known is not None
    assert known.event is said
    assert room.unstage(said.event_id) is None
    assert (room.staged_missing, list(room.staged_events)) == ({}, [state.event_id])
    join = graph.add(enter(CAROL), said)
    room.stage(StoredEvent(join), 12)
    assert room.staged_refs[join.event_id] == StateRef(join.event_id, 12, "join")


def test_missing_parents_are_known_while_they_are_staged_and_after() -> None:
    room, gone, other = empty_room(), EventId("$gone"), EventId("$other")
    room.staged_missing[EventId("$soft")] = (gone,), False
    assert (room.is_named(gone), room.is_awaited(gone)) == (False, True)
    room.staged_missing[EventId("$accepted")] = (other, gone), True
    assert (room.is_named(gone), room.is_awaited(gone)) == (True, True)
    room.unstage(EventId("$accepted"))
    room.unstage(EventId("$soft"))
    assert (room.is_named(gone), room.is_awaited(gone)) == (False, False)
    room.named.add(gone)
    assert (room.is_named(gone), room.is_awaited(gone)) == (True, False)
    room.awaited.add(other)
    assert (room.is_named(other), room.is_awaited(other)) == (False, True)


def test_an_index_of_citations_past_its_bound_starts_with_what_is_staged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ROOM_CITING_EVENTS", 5)
    room, graph = empty_room(), Graph()
    last = graph.begin()
    stored = [last := graph.add(topic(str(number), BOB), last) for number in range(5)]
    room.cite(stored)
    assert len(room.citations) == 5
    staged = graph.add(topic("staged", BOB), last)
    room.stage(StoredEvent(staged), 1)
    assert len(room.citations) == 1
    room.cite(stored[:4])
    assert len(room.citations) == 5


# The state as the auth rules read it


def test_the_auth_rules_read_staged_events_first_and_load_the_others() -> None:
    room, graph = empty_room(), Graph()
    graph.begin()
    events = {one.key: one for one in graph.events.values()}
    refs = {key: StateRef(one.event_id, 1) for key, one in events.items()}
    state: StateMap = immutables.Map(refs)
    levels = events["m.room.power_levels", ""]
    room.stage(StoredEvent(levels), 2)
    loaded: list[EventId] = []

    def load(event_id: EventId) -> Event:
        loaded.append(event_id)
        raise NotLoaded(event_id)

    auth = room.auth_state(state, load)
    assert auth.event(("m.room.power_levels", "")) is levels
    assert auth.event(("m.room.topic", "")) is None
    with pytest.raises(NotLoaded):
        auth.event(("m.room.create", ""))
    assert loaded == [events["m.room.create", ""].event_id]
    assert room.auth_state(state, load) is auth
    assert room.auth_state(immutables.Map(refs), load) is not auth
    kept = room.auth_state(state, load)
    room.forget_auth()  # as one of the events was redacted
    assert room.auth_state(state, load) is not kept


# The newest events


def ring_of(count: int) -> Room:
    room = empty_room()
    for position in range(1, count + 1):
        room.remember(Placed(position, event_entry({"body": "x" * position}, position)))
    return room


def test_the_newest_events_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROOM_RING_EVENTS", 3)
    room = ring_of(3)
    assert room.ring_start == 0
    room = ring_of(5)
    assert [placed.position for placed in room.ring] == [3, 4, 5]
    assert room.ring_start == 2


def test_the_newest_events_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = event_entry({"body": "x" * 60_000})
    monkeypatch.setattr(limits, "ROOM_RING_BYTES", 3 * entry.size)
    room = empty_room()
    empty = room.bytes
    for position in range(1, 11):
        room.remember(Placed(position, entry))
    assert [placed.position for placed in room.ring] == [8, 9, 10]
    assert room.ring_start == 7
    assert room.bytes == empty + 3 * entry.size
    small = event_entry({})
    room.replace_in_ring(msgspec.structs.replace(small, event=entry.event, kept_client=b"{}"))
    room.forget_timeline(entry.event.event_id)
    assert len(room.ring) == 2
    monkeypatch.setattr(limits, "ROOM_RING_BYTES", 1)
    room.remember(Placed(11, small))
    assert [placed.position for placed in room.ring] == [11]
    assert room.bytes == empty + small.size


def test_one_of_the_newest_events_is_renewed_or_dropped_at_its_place() -> None:
    room = ring_of(3)
    was = room.bytes
    entry = event_entry({}, 2)
    room.replace_in_ring(entry)
    assert [one.position for one in room.ring] == [1, 2, 3]
    assert room.ring[1].entry is entry
    assert room.bytes < was
    room.forget_timeline(EventId("$event3"))
    assert [one.position for one in room.ring] == [1, 2]
    was = room.bytes
    room.forget_timeline(EventId("$event3"))
    room.replace_in_ring(event_entry({}, 9))
    assert ([one.position for one in room.ring], room.bytes) == ([1, 2], was)


# Members and sizes


def test_local_members_follow_the_changes_of_state() -> None:
    room, mallory = empty_room(), UserId("@mallory:evil.hs1")

    def member(user: str, membership: str | None) -> StateChange:
        return StateChange(("m.room.member", user), EventId("$e"), membership)

    room.update_locals([member(one, "join") for one in (ALICE, BOB, mallory)], "hs1")
    assert room.joined_local == {ALICE}
    room.update_locals([StateChange(("m.room.topic", ALICE), EventId("$e"), "leave")], "hs1")
    assert room.joined_local == {ALICE}
    for ending in ("leave", "ban", "knock", "invite", None):
        room.update_locals([member(ALICE, "join"), member(ALICE, ending)], "hs1")
        assert room.joined_local == set()
    room.update_locals([member(ALICE, "leave"), member(ALICE, "join")], "hs1")
    assert room.joined_local == {ALICE}


def test_members_are_counted_by_membership_and_server() -> None:
    memberships = {
        "@a:hs1": "join",
        "@b:hs1": "join",
        "@c:hs2": "join",
        "@d:hs2": "invite",
        "@e:hs3": "invite",
        "@f:hs3": "leave",
        "@g:hs4": "ban",
        "no user": None,
    }
    state = {
        ("m.room.member", user): StateRef(EventId(f"${user}"), 1, membership)
        for user, membership in memberships.items()
    }
    state["m.room.topic", "@h:hs5"] = StateRef(EventId("$topic"), 1, "join")
    joined, invited, servers = membership_counts(state)
    assert (joined, invited, dict(servers)) == (3, 2, {"hs1": 2, "hs2": 1})
    view = msgspec.structs.replace(empty_view(1), state=immutables.Map(state), servers=servers)
    room = Room(RoomId("!r:hs1"), 1, ROOM_VERSIONS["12"], view)
    assert room.joined_servers[ServerName("hs1")] == 2
    is_joined = {user: room.is_joined(UserId(user)) for user in (*memberships, "@h:hs5")}
    assert [user for user, joined_now in is_joined.items() if joined_now] == [
        "@a:hs1",
        "@b:hs1",
        "@c:hs2",
    ]


async def test_a_room_in_use_is_one_with_work_or_a_holder() -> None:
    room = empty_room()
    seen = [room.is_in_use]
    for name in ("holders", "unsettled"):
        setattr(room, name, 1)
        seen.append(room.is_in_use)
        setattr(room, name, 0)
        seen.append(room.is_in_use)
    await room.lock.acquire()
    seen.append(room.is_in_use)
    room.lock.release(None)
    seen.append(room.is_in_use)
    assert seen == [False, True, False, True, False, True, False]


async def test_a_rooms_size_grows_with_its_state_events_and_waiting_redactions(
    world: World,
) -> None:
    room = await room_of(world)
    sizes = [room.bytes]
    await world.engine.writer.send(room.room_id, draft("m.room.topic", {"topic": "x"}, ""))
    sizes.append(room.bytes)
    room.awaited_targets[EventId("$target")] = [EventId("$redaction")]
    sizes.append(room.bytes)
    await world.say(room.room_id, "x" * 10_000)
    sizes.append(room.bytes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] > sizes[0] + 10_000


async def test_heads_are_branches_with_the_states_after_them(world: World) -> None:
    room = await room_of(world)
    [(event_id, after)] = branches_of(room.view.heads)
    assert event_id == heads(room)[0]
    assert (after.state, after.chain) == (room.view.state, room.view.chain)
    assert branches_of([]) == ()
