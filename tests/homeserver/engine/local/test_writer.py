"""A room's lock: what is staged under it holds together, or is taken back whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, RoomId, UserId
from federation.graph.admission import Accepted
from federation.graph.building import EventDraft
from federation.ports import PolicyServerChanged
from homeserver import limits
from homeserver.engine.entries import TransactionKey, Unit
from homeserver.engine.log.committer import OutcomeUnknown
from homeserver.engine.rooms.reader import event_entry
from homeserver.engine.rooms.snapshots import StateMap, StateRef
from homeserver.errors import forbidden
from homeserver.storage.database import DatabaseUnavailable
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    V12,
    World,
    draft,
    in_memory,
    message,
    running,
)
from tests.homeserver.engine.history_world import CAROL, ban, enter, here, room_of_bob
from tests.simulation.virtual_time import run_virtually

_JOIN = draft("m.room.member", {"membership": "join"}, BOB, BOB)


async def _send(world: World, room_id: RoomId) -> EventId:
    return await world.say(room_id, "second")


async def _accept(world: World, room_id: RoomId) -> EventId:
    room = await world.room(room_id)
    parents = [head.event_id for head in room.view.heads]
    event = await world.remote(room_id, message("second", BOB), parents=parents)
    assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
    return event.event_id


@pytest.mark.parametrize("door", [_send, _accept])
async def test_a_batch_that_fails_while_an_event_is_placed_takes_it_along(
    postgres_url: str, door: Callable[[World, RoomId], Awaitable[EventId]]
) -> None:
    """The event is staged on one that comes to nothing while the placing waits for a load. It is
    staged again: otherwise its parent would be an event that exists nowhere."""
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await world.engine.remote_event_writer.accept(
            await world.remote(room_id, _JOIN), Accepted()
        )
        is_placing, has_failed = asyncio.Event(), asyncio.Event()
        failures: list[asyncio.Task[EventId]] = []
        redactions = world.engine.writer.stager.redactions
        of = redactions.of

        async def wait_for_failure(*arguments: Any, **options: Any) -> Any:
            if arguments[1].content.get("body") == "second" and not has_failed.is_set():
                is_placing.set()
                await asyncio.wait(failures)
                has_failed.set()
            return await of(*arguments, **options)

        async def fail_once(when: str) -> None:
            if when == "before" and not has_failed.is_set():
                await is_placing.wait()
                raise DatabaseUnavailable("gone")

        redactions.of = wait_for_failure  # type: ignore[method-assign]
        world.engine.committer.fault = fail_once
        room = await world.room(room_id)
        was = [head.event_id for head in room.view.heads]
        failures.append(asyncio.get_running_loop().create_task(world.say(room_id, "first")))
        while room.staged is room.view:
            await asyncio.sleep(0)
        second = await door(world, room_id)
        with pytest.raises(MatrixError):
            await failures[0]
        known = await world.engine.rooms.events([second])
        assert list(known[second].event.prev_events) == was
        assert [head.event_id for head in room.view.heads] == [second]
        assert await world.bodies(room_id) == ["second"]
        assert room.staged is room.view
        assert not room.staged_events
        assert not room.staged_refs


async def test_a_unit_that_is_refused_halfway_leaves_nothing_staged(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        room = await world.room(room_id)
        topic = draft("m.room.topic", {"topic": "half"}, "")
        with pytest.raises(MatrixError) as refused:
            await world.engine.writer.send_all(room_id, [topic, message("no member", BOB)])
        assert refused.value.status == 403
        assert room.staged is room.view
        assert (room.staged_events, room.staged_refs) == ({}, {})
        assert not room.after
        await world.say(room_id, "next")
        assert room.staged is room.view


async def test_what_was_queued_before_stays_when_a_later_unit_is_refused(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        room = await world.room(room_id)
        go_on = asyncio.Event()

        async def hold(when: str) -> None:
            if when == "before":
                await go_on.wait()

        world.engine.committer.fault = hold
        loop = asyncio.get_running_loop()
        kept = loop.create_task(world.say(room_id, "kept"))
        while not room.unsettled:
            await asyncio.sleep(0)
        unit = [message("half"), message("no member", BOB)]
        refused = loop.create_task(world.engine.writer.send_all(room_id, unit))
        while not len(world.engine.committer._queue):  # the refusal waits for what is queued
            await asyncio.sleep(0)
        assert len(room.staged_events) == 1
        go_on.set()
        with pytest.raises(MatrixError) as error:
            await refused
        assert error.value.status == 403
        [head] = room.view.heads
        assert head.event_id == await kept
        await world.engine.committer.submit(Unit())
        assert (room.staged is room.view, room.staged_events) == (True, {})
        assert ALICE in room.joined_local


# Equal and redundant requests


def _topic(text: str) -> EventDraft:
    return draft("m.room.topic", {"topic": text}, "")


async def test_an_equal_state_event_is_not_sent_again() -> None:
    async with in_memory() as world:
        room_id, writer = await world.create_room(), world.engine.writer
        first = await writer.send(room_id, _topic("x"))
        position = world.engine.committer.position
        assert await writer.find_same(room_id, _topic("x")) == first.event_id
        assert (await writer.send(room_id, _topic("x"))).event_id == first.event_id
        assert world.engine.committer.position == position
        assert await writer.find_same(room_id, _topic("y")) is None
        assert await writer.find_same(room_id, message("x")) is None
        assert await writer.find_same(room_id, draft("m.room.name", {}, "")) is None
        other = await writer.send(room_id, _topic("y"))
        assert other.event_id != first.event_id
        again = await writer.send(room_id, _topic("x"))
        assert again.event_id not in (first.event_id, other.event_id)
        assert await world.say(room_id, "x") != await world.say(room_id, "x")


async def test_equal_requests_at_once_have_the_result_of_one() -> None:
    async with in_memory() as world:
        room_id, writer = await world.create_room(), world.engine.writer
        position = world.engine.committer.position
        sent = await asyncio.gather(*(writer.send(room_id, _topic("x")) for _ in range(5)))
        assert len({one.event_id for one in sent}) == 1
        assert world.engine.committer.position == position + 1


async def test_an_equal_request_waits_for_the_commit_that_it_rests_on() -> None:
    async with in_memory() as world:
        room_id, writer = await world.create_room(), world.engine.writer
        room = await world.room(room_id)
        go_on, fails = asyncio.Event(), [True]

        async def fail_once(when: str) -> None:
            if when == "before":
                await go_on.wait()
                if fails:
                    fails.pop()
                    raise DatabaseUnavailable("gone")

        world.engine.committer.fault = fail_once
        loop = asyncio.get_running_loop()
        first = loop.create_task(writer.send(room_id, _topic("x")))
        while not room.unsettled:
            await asyncio.sleep(0)
        second = loop.create_task(writer.send(room_id, _topic("x")))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not second.done()
        go_on.set()
        with pytest.raises(MatrixError):
            await first
        sent = await second  # it sends the event itself
        assert [head.event_id for head in room.view.heads] == [sent.event_id]


async def test_a_check_decides_under_the_lock_by_the_staged_state() -> None:
    """Of two drafts at once the second sees what the first has staged."""
    async with in_memory() as world:
        room_id, writer = await world.create_room(), world.engine.writer

        def only_once(state: StateMap) -> StateRef | None:
            return state.get(("m.room.topic", ""))

        drafts = [_topic("one"), _topic("two")]
        one, two = await asyncio.gather(
            *(writer.send(room_id, what, check=only_once) for what in drafts)
        )
        assert one.event_id == two.event_id
        known = (await world.engine.rooms.events([one.event_id]))[one.event_id]
        assert known.event.content == {"topic": "one"}

        def never(state: StateMap) -> StateRef | None:
            raise forbidden("no more topics")

        with pytest.raises(MatrixError) as refused:
            await writer.send(room_id, _topic("three"), check=never)
        assert refused.value.status == 403
        assert await writer.find_same(room_id, _topic("three")) is None


# Transactions


async def test_a_repeat_during_the_first_gets_its_result() -> None:
    async with in_memory() as world:
        room_id = await world.create_room()
        sent = await asyncio.gather(*(world.say(room_id, "x", txn="t") for _ in range(3)))
        assert len(set(sent)) == 1
        assert await world.bodies(room_id) == ["x"]


async def test_a_refused_request_can_be_made_again_under_its_transaction() -> None:
    async with in_memory() as world:
        room_id, writer = await world.create_room(), world.engine.writer
        key = TransactionKey(BOB, "D", "/send", "t")  # type: ignore[arg-type]
        with pytest.raises(MatrixError):
            await writer.send(room_id, message("x", BOB), transaction=key)
        event = await world.remote(room_id, _JOIN)
        await world.engine.remote_event_writer.accept(event, Accepted())
        with pytest.raises(MatrixError):  # he is another server's
            await writer.send(room_id, message("y" * 70_000), transaction=key)
        assert await world.bodies(room_id) == []


def test_after_an_unknown_outcome_the_transaction_waits_for_it() -> None:
    async def wait() -> None:
        async with in_memory() as world:
            room_id, go_on = await world.create_room(), asyncio.Event()

            async def hold(when: str) -> None:
                if when == "before":
                    await go_on.wait()

            world.engine.committer.fault = hold
            with pytest.raises(OutcomeUnknown) as unknown:
                await world.say(room_id, "x", txn="t")
            repeat = asyncio.get_running_loop().create_task(world.say(room_id, "x", txn="t"))
            await asyncio.sleep(0)
            go_on.set()
            assert [await repeat] == list(unknown.value.event_ids)
            assert await world.bodies(room_id) == ["x"]

    run_virtually(wait())


# Several events, and new rooms


async def test_several_events_are_sent_as_one_unit_with_their_rows() -> None:
    async with in_memory() as world:
        room_id, writer = await world.create_room(), world.engine.writer
        batches: list[int] = []
        world.engine.committer.subscribe(lambda placed: batches.append(len(placed)))
        sent = await writer.send_all(
            room_id, [_topic("x"), message("1"), _topic("x"), message("2")]
        )
        assert batches == [3]
        assert sent[2].event_id == sent[0].event_id  # as it is the same
        assert [one.position for one in (sent[0], sent[1], sent[3])] == [
            world.engine.committer.position - 2,
            world.engine.committer.position - 1,
            world.engine.committer.position,
        ]


async def test_a_room_that_can_not_be_made_is_not_there() -> None:
    async with in_memory() as world:
        writer, rooms = world.engine.writer, world.engine.rooms
        create = draft("m.room.create", {"room_version": "12"}, "")
        with pytest.raises(MatrixError) as refused:
            await writer.create(V12, [create, message("before anybody is in it")])
        assert refused.value.status == 403
        assert len(rooms._hot) == 0
        failures = 0

        async def fail(when: str) -> None:
            nonlocal failures
            failures += 1
            raise DatabaseUnavailable("gone")

        world.engine.committer.fault = fail
        with pytest.raises(MatrixError) as lost:
            await world.create_room()
        assert (lost.value.status, failures) == (503, 1)
        assert len(rooms._hot) == 0
        world.engine.committer.fault = None
        room_id = await world.create_room()
        assert await rooms.get(room_id) is not None


async def test_a_room_is_not_known_to_others_before_its_commit() -> None:
    async with in_memory() as world:
        go_on = asyncio.Event()

        async def hold(when: str) -> None:
            if when == "before":
                await go_on.wait()

        world.engine.committer.fault = hold
        creating = asyncio.get_running_loop().create_task(world.create_room())
        while not len(world.engine.rooms._hot):
            await asyncio.sleep(0)
        creating.cancel()
        await asyncio.wait([creating])
        go_on.set()
        await world.engine.committer.submit(Unit())
        [room_id] = list(world.engine.rooms._hot._rooms)  # it was on its way
        room = await world.room(room_id)
        assert (room.view.live_index, room.staged is room.view) == (4, True)


async def test_a_room_that_is_unknown_here_is_not_found() -> None:
    async with in_memory() as world:
        writer, nowhere = world.engine.writer, RoomId("!nowhere:hs1")
        for work in (
            writer.send(nowhere, message("x")),
            writer.find_same(nowhere, _topic("x")),
            writer.send_all(nowhere, [message("x")]),
            writer.build_ahead(nowhere, _topic("x")),
        ):
            with pytest.raises(MatrixError) as refused:
                await work
            assert refused.value.status == 404


async def test_an_event_that_was_built_ahead_is_sent_as_it_is() -> None:
    async with in_memory() as world:
        room_id, writer = await world.create_room(), world.engine.writer
        built = await writer.build_ahead(room_id, _topic("x"))
        await world.say(room_id, "in the meantime")
        sent = await writer.send_built(room_id, built)
        assert sent.event_id == built.event.event_id
        room = await world.room(room_id)
        assert room.view.state["m.room.topic", ""].event_id == sent.event_id
        room.corrections += 1  # the state that the next one is built on turns out to be wrong
        old = msgspec.structs.replace(await writer.build_ahead(room_id, _topic("y")), corrections=0)
        with pytest.raises(PolicyServerChanged):
            await writer.send_built(room_id, old)


async def test_what_is_superseded_each_time_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with in_memory() as world:
        room_id, stager = await world.create_room(), world.engine.writer.stager
        room, stage_draft, tries = await world.room(room_id), stager.stage_draft, 0

        async def fail_meanwhile(*arguments: Any) -> Any:
            nonlocal tries
            tries += 1
            staged = await stage_draft(*arguments)
            if tries <= bound:
                room.discard_staged()
            return staged

        monkeypatch.setattr(stager, "stage_draft", fail_meanwhile)
        bound = limits.STAGING_TRIES
        with pytest.raises(MatrixError) as refused:
            await world.say(room_id, "x")
        assert (refused.value.status, tries) == (503, limits.STAGING_TRIES)
        assert await world.bodies(room_id) == []
        tries, bound = 0, limits.STAGING_TRIES - 1
        await world.say(room_id, "x")
        assert await world.bodies(room_id) == ["x"]


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_room_whose_outcome_is_unknown_goes_if_it_was_not_stored(is_stored: bool) -> None:
    async def create() -> None:
        async with in_memory() as world:
            go_on = asyncio.Event()

            async def hold(when: str) -> None:
                if when == "before":
                    await go_on.wait()
                    if not is_stored:
                        raise DatabaseUnavailable("gone")

            world.engine.committer.fault = hold
            with pytest.raises(OutcomeUnknown) as unknown:
                await world.create_room()
            go_on.set()
            await asyncio.wait([unknown.value.final])
            await asyncio.sleep(0)
            assert len(world.engine.rooms._hot) == is_stored

    run_virtually(create())


async def test_many_events_of_one_request_let_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STAGED_AT_ONCE", 2)
    async with in_memory() as world:
        room_id, passes = await world.create_room(), 0
        await world.engine.committer.numbers.ready(50)

        async def count_passes() -> None:
            nonlocal passes
            while True:
                passes += 1
                await asyncio.sleep(0)

        room = await world.room(room_id)
        counting = asyncio.get_running_loop().create_task(count_passes())
        sending = asyncio.get_running_loop().create_task(
            world.engine.writer.send_all(room_id, [message(str(number)) for number in range(12)])
        )
        while not room.unsettled:
            await asyncio.sleep(0)
        assert passes >= 6
        counting.cancel()
        assert len(await sending) == 12


# Memory after the commit


async def test_after_its_commit_an_event_is_an_ordinary_one() -> None:
    async with in_memory() as world:
        room_id = await world.create_room()
        room, memory = await world.room(room_id), world.engine.rooms.memory
        named = await world.engine.writer.send(room_id, _topic("x"))
        said = await world.say(room_id, "secret")
        assert not room.staged_events
        assert memory.known(said) is not None
        assert memory.client(named.event_id) is not None  # syncs ask for state again and again
        assert room.joined_local == {ALICE}
        redaction = EventDraft("m.room.redaction", ALICE, {"redacts": said}, None, said)
        await world.engine.writer.send(room_id, redaction)
        placed = await world.engine.reader.place(room, said)
        assert placed is not None
        assert event_entry(placed).event.content == {}
        leave = draft("m.room.member", {"membership": "leave"}, ALICE)
        await world.engine.writer.send(room_id, leave)
        assert room.joined_local == set()


async def test_a_merge_is_not_sent_to_other_servers_by_itself() -> None:
    async with in_memory() as world:
        room_id = await world.create_room()
        await world.engine.writer.merge_heads(room_id, message("merge"))
        room = await world.room(room_id)
        assert [event_entry(one).to_federate for one in list(room.ring)[-2:]] == [True, False]


async def test_after_a_correction_memory_has_none_of_the_wrong_verdicts() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        banned = graph.add(ban(CAROL), last)
        lie = graph.before([last])
        said = graph.add(message("still here", CAROL), banned, cites=lie)
        assert await server.accept_with(said, lie) == Accepted()
        room, memory = await server.room(), server.engine.rooms.memory
        assert said.event_id in {event_entry(one).event.event_id for one in room.ring}
        corrections = room.corrections
        await server.accept(banned)
        await server.prove()
        assert said.event_id not in {event_entry(one).event.event_id for one in room.ring}
        assert room.after.get(said.event_id) is None
        assert memory.known(said.event_id) is None
        assert (room.was_corrected, room.corrections) == (True, corrections + 1)
        known = (await server.engine.rooms.events([said.event_id]))[said.event_id]
        assert known.rejected
        zoe = UserId("@zoe:hs1")
        joined = graph.add(enter(zoe), banned)
        assert await server.accept(joined) == Accepted()
        assert zoe in room.joined_local
