"""The index of messages: what is in it after crashes, and how it follows the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from federation.events.ids import EventId
from homeserver import limits
from homeserver.services.timeline.search.index import MessageIndex
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.timeline import search as search_table
from homeserver.storage.timeline.search import SearchTable
from tests.homeserver.media_world import SetClock
from tests.homeserver.room_world import ALICE, World
from tests.homeserver.sync_world import SyncWorld, sync_world


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


def make_index(world: World, clock: SetClock | None = None) -> MessageIndex:
    """An index as after a start."""
    clock = clock or SetClock()
    return MessageIndex(world.database, clock, end=world.committer.position)


async def indexed(world: World) -> list[str]:
    """The event IDs in the index, in order."""
    rows = await world.database.fetch(
        "SELECT event_id FROM search_events JOIN events USING (room_row_id, event_row_id)"
        " ORDER BY event_row_id"
    )
    return [row[0] for row in rows]


async def test_a_start_goes_on_where_the_last_one_ended(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCH_POSITIONS", 2)
    world = syncs.world
    room_id = await world.room()
    sent = await syncs.say(ALICE, room_id, *(f"x {number}" for number in range(5)))
    await make_index(world).catch_up()
    assert await indexed(world) == sent
    assert await SearchTable(world.database).position() == world.committer.position
    sent += await syncs.say(ALICE, room_id, "x more")
    again = make_index(world)
    await asyncio.gather(again.catch_up(), again.catch_up())
    assert await indexed(world) == sent


async def test_a_stretch_and_its_end_are_stored_together(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes between them, everything up to the stored position is in the index."""
    world = syncs.world
    room_id = await world.room()
    sent = await syncs.say(ALICE, room_id, "x")
    inserted = search_table._insert

    async def broken(*values: object) -> None:
        await inserted(*values)  # type: ignore[arg-type]
        raise DatabaseUnavailable("killed")

    monkeypatch.setattr(search_table, "_insert", broken)
    index = make_index(world)
    with pytest.raises(DatabaseUnavailable):
        await index.catch_up()
    assert await indexed(world) == []
    assert await SearchTable(world.database).position() == 0
    monkeypatch.undo()
    await index.catch_up()
    assert await indexed(world) == sent


async def test_fetched_history_is_indexed_too(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room()
    sent = await syncs.say(ALICE, room_id, "x one", "x two")
    index = make_index(world)
    await index.catch_up()
    await world.database.execute("DELETE FROM search_events")
    await world.database.execute(
        "INSERT INTO search_waiting SELECT room_row_id, event_row_id FROM events"
        " WHERE event_id = $1",
        sent[0],
    )
    await index.catch_up()
    assert await indexed(world) == sent[:1]
    assert await SearchTable(world.database).waiting() == []


async def test_it_wakes_up_after_many_positions_and_waits_for_the_database(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCH_POSITIONS", 3)
    world, clock = syncs.world, SetClock()
    index = make_index(world, clock)
    world.committer.subscribe(index.on_commit)
    caught_up, is_away = 0, True
    real, began_ms = index.catch_up, clock.now_ms()

    async def catch_up() -> None:
        nonlocal caught_up, is_away
        if is_away:
            is_away = False
            raise DatabaseUnavailable("away")
        await real()
        caught_up += 1

    monkeypatch.setattr(index, "catch_up", catch_up)
    running = asyncio.create_task(index.run())
    try:
        await _until(lambda: caught_up == 1)
        assert clock.now_ms() - began_ms == limits.SEARCH_RETRY_S * 1000
        room_id = await world.room()  # a room has more than three events
        await _until(lambda: caught_up == 2)
        (sent,) = await syncs.say(ALICE, room_id, "x")
        for _ in range(100):
            await asyncio.sleep(0)
        assert caught_up == 2, "one message is no reason to wake up"
        await real()
        assert await indexed(world) == [sent]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_search_does_not_wait_for_an_index_that_is_far_behind(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade it has a whole log to go through."""
    world = syncs.world
    sent = await syncs.say(ALICE, await world.room(), "x")
    index, behind = make_index(world), world.committer.position
    monkeypatch.setattr(limits, "SEARCH_POSITIONS_AWAITED", behind - 1)
    await index.settle()
    assert await indexed(world) == []
    running = asyncio.create_task(index.run())
    await _until(lambda: index._indexed == behind)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await indexed(world) == sent
    await world.database.execute("DELETE FROM search_events")
    await world.database.execute("DELETE FROM search_position")
    monkeypatch.setattr(limits, "SEARCH_POSITIONS_AWAITED", behind)
    await make_index(world).settle()
    assert await indexed(world) == sent


async def test_an_event_is_not_newer_than_its_coming_here(syncs: SyncWorld) -> None:
    """Else a server could have its messages first in all searches for ever."""
    world, clock = syncs.world, SetClock()
    room_id = await world.room()
    (event_id,) = await syncs.say(ALICE, room_id, "x")
    future = 2**50
    await world.database.execute(
        "UPDATE events SET json = $2 WHERE event_id = $1",
        event_id,
        orjson.dumps({"origin_server_ts": future, "content": {"body": "x"}}),
    )
    await make_index(world, clock).catch_up()
    sent_ms = await world.database.fetchval("SELECT max(sent_ms) FROM search_events")
    assert sent_ms == clock.now_ms() < future


async def test_others_have_their_turn_between_long_texts(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCH_SLICE_CHARACTERS", 10)
    world = syncs.world
    room_id = await world.room()
    await syncs.say(ALICE, room_id, *("word " * 2 + str(number) for number in range(6)))
    index = make_index(world)
    rows = await SearchTable(world.database).unindexed(after=0, up_to=world.committer.position)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    entries = await index._entries(rows)
    task.cancel()
    assert len(entries) == 6
    assert turns >= 5


@pytest.mark.parametrize(
    "json",
    [
        b'{"content":' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}",
        b'{"content":[],"origin_server_ts":1}',
        b'{"content":{"body":["x"]},"origin_server_ts":1}',
        b'{"content":{"body":"!"},"origin_server_ts":1}',
    ],
)
async def test_what_has_no_text_is_passed_over(syncs: SyncWorld, json: bytes) -> None:
    world = syncs.world
    room_id = await world.room()
    odd, good = map(EventId, await syncs.say(ALICE, room_id, "x odd", "x good"))
    await world.database.execute("UPDATE events SET json = $2 WHERE event_id = $1", odd, json)
    await make_index(world).catch_up()
    assert await indexed(world) == [good]
