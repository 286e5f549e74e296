"""A room's lock: what is staged under it holds together, or is taken back whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, RoomId
from federation.graph.admission import Accepted
from homeserver.engine.entries import Unit
from homeserver.storage.database import DatabaseUnavailable
from tests.homeserver.engine.engine_world import ALICE, BOB, World, draft, message, running

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
