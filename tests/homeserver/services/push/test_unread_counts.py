"""Counts of unread notifications: against a naive model over random histories, and what is special
about them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.services.push.evaluator import Evaluated
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.push.unread import PushWrites, RoomState, UnreadTable
from tests.homeserver.room_world import ALICE, BOB, CAROL
from tests.homeserver.services.push.counted_rooms import in_thread, never_by_itself, shared_room
from tests.homeserver.services.push.random_history import History, counted
from tests.homeserver.sync_world import SyncWorld, sync_world

BY_THREAD = {"room": {"timeline": {"unread_thread_notifications": True}}}


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    """Yield a world of syncs."""
    async with sync_world(postgres_url) as world:
        yield world


@pytest.mark.parametrize("seed", range(3))
async def test_counts_are_those_of_a_naive_model(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Over random histories with restarts; what happens just before these is read from the log."""
    monkeypatch.setattr(limits, "PUSH_EVENTS_UNSUMMED", 1 + 3 * (seed % 3))
    monkeypatch.setattr(limits, "PUSH_WAIT_S", 60.0)
    history = History(seed)
    for part in range(3):
        async with sync_world(postgres_url) as syncs:
            history.syncs = syncs
            if part == 0:
                await history.begin(syncs)
            await history.check()
            for _ in range(20):
                await history.step()
                await history.check()
            assert syncs.world.counting is not None
            syncs.world.counting.cancel()
            for _ in range(5):
                await history.step(may_change_rules=False)


async def unread(syncs: SyncWorld, user: UserId, room_id: str, **query: Any) -> Any:
    """The counts of a room in a sync: of the room or the main timeline, and of threads."""
    room = (await syncs.get(user, **query))["rooms"]["join"][room_id]
    return room["unread_notifications"], room.get("unread_thread_notifications")


def count(notified: int, highlighted: int = 0) -> dict[str, int]:
    """A count as clients get it."""
    return {"highlight_count": highlighted, "notification_count": notified}


async def test_syncs_count_threads_if_they_are_asked_to(syncs: SyncWorld) -> None:
    """Else all of the room."""
    room_id = await shared_room(syncs, BOB)
    root, _ = await syncs.say(ALICE, room_id, "one", "two")
    await in_thread(syncs, ALICE, room_id, root)
    assert await unread(syncs, BOB, room_id) == (count(3, 1), None)
    by_thread = await unread(syncs, BOB, room_id, filter=BY_THREAD)
    assert by_thread == (count(2), {root: count(1, 1)})
    await syncs.receipts.send(BOB, room_id, "m.read", root, thread="main")
    assert await unread(syncs, BOB, room_id, filter=BY_THREAD) == (count(1), {root: count(1, 1)})
    assert await unread(syncs, ALICE, room_id, filter=BY_THREAD) == (count(0), None)


async def test_an_event_and_its_count_come_together(syncs: SyncWorld) -> None:
    """In the sync that waits for it; so does a count that a receipt changes, whatever the filter
    says about receipts."""
    room_id = await shared_room(syncs, BOB)
    since = (await syncs.get(BOB))["next_batch"]
    waiting = asyncio.ensure_future(syncs.get(BOB, since=since, timeout=60_000))
    await asyncio.sleep(0)
    [event_id] = await syncs.say(ALICE, room_id, "one")
    found = await waiting
    room = found["rooms"]["join"][room_id]
    assert [one["event_id"] for one in room["timeline"]["events"]] == [event_id]
    assert room["unread_notifications"] == count(1)
    await syncs.receipts.send(BOB, room_id, "m.read.private", event_id)
    nothing: Any = {"room": {"ephemeral": {"types": []}}}
    counts = await unread(syncs, BOB, room_id, since=found["next_batch"], filter=nothing)
    assert counts == (count(0), None)


async def test_members_of_large_rooms_are_summed_at_once(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a room has many events, or all rooms together have: then no event is read any more."""
    room_id = await shared_room(syncs, BOB, CAROL)
    monkeypatch.setattr(limits, "PUSH_EVENTS_UNSUMMED", 3)
    await syncs.say(ALICE, room_id, "1", "2")
    assert await counted(syncs.world, BOB, room_id) == {"main": (2, 0)}
    query = "SELECT user_id, notified FROM push_counts WHERE notified > 0 ORDER BY user_id"
    assert await syncs.world.database.fetch(query) == []
    await syncs.say(ALICE, room_id, "3")
    assert await counted(syncs.world, BOB, room_id) == {"main": (3, 0)}
    rows = await syncs.world.database.fetch(query)
    assert [tuple(row) for row in rows] == [(BOB, 3), (CAROL, 3)]
    monkeypatch.setattr(limits, "PUSH_EVENTS_UNSUMMED", 100)
    monkeypatch.setattr(limits, "PUSH_EVENTS_UNSUMMED_IN_ALL", 1)
    await syncs.say(ALICE, room_id, "4", "5")
    assert await counted(syncs.world, CAROL, room_id) == {"main": (5, 0)}
    rows = await syncs.world.database.fetch(query)
    assert all(row["notified"] >= 4 for row in rows)


async def test_a_lost_database_delays_the_counts(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are stored once it is back; nothing is counted twice."""
    room_id = await shared_room(syncs, BOB)
    await counted(syncs.world, BOB, room_id)
    write, failures, pauses = UnreadTable.write, [DatabaseUnavailable("away")] * 2, list[float]()

    async def failing(table: UnreadTable, writes: Any) -> None:
        await write(table, writes)
        if failures:
            raise failures.pop()

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr(UnreadTable, "write", failing)
    monkeypatch.setattr(syncs.world.push.counts, "_sleep", sleep)
    monkeypatch.setattr(limits, "PUSH_EVENTS_UNSUMMED", 1)
    await syncs.say(ALICE, room_id, "one", "two")
    assert await counted(syncs.world, BOB, room_id) == {"main": (2, 0)}
    assert pauses == [limits.PUSH_RETRY_S] * 2
    [row] = await syncs.world.database.fetch("SELECT sum(notified) AS all FROM push_counts")
    assert row["all"] == 2


async def test_an_entry_that_fails_is_left_out(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind it are counted."""
    room_id = await shared_room(syncs, BOB)
    evaluator = syncs.world.push.evaluator
    evaluate = evaluator.evaluate

    async def failing(placed: Any, ahead: Any) -> Any:
        if placed.entry.event.content.get("body") == "bad":
            raise AssertionError("a fault of ours")
        return await evaluate(placed, ahead)

    monkeypatch.setattr(evaluator, "evaluate", failing)
    await syncs.say(ALICE, room_id, "one", "bad", "two")
    assert await counted(syncs.world, BOB, room_id) == {"main": (2, 0)}


async def test_a_stopped_follower_delays_no_sync_for_ever(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts that are known are sent, after a bounded wait."""
    room_id = await shared_room(syncs, BOB)
    await syncs.say(ALICE, room_id, "one")
    await counted(syncs.world, BOB, room_id)
    assert syncs.world.counting is not None
    syncs.world.counting.cancel()
    monkeypatch.setattr(limits, "PUSH_WAIT_S", 0.01)
    await syncs.say(ALICE, room_id, "two")
    assert await counted(syncs.world, BOB, room_id) == {"main": (1, 0)}


async def test_the_position_is_stored_now_and_then(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while nothing is counted, so that a start has little to read."""
    world = syncs.world
    room_id = await shared_room(syncs, BOB)
    await world.push.counts.settled()
    query = "SELECT position FROM push_position"
    before = await world.database.fetchval(query)
    assert before == world.committer.position
    await world.put_state(ALICE, room_id, "m.room.topic", {"topic": "one"})
    await counted(world, BOB, room_id)
    assert await world.database.fetchval(query) == before
    monkeypatch.setattr(limits, "PUSH_POSITIONS", 2)
    await world.put_state(ALICE, room_id, "m.room.topic", {"topic": "two"})
    await counted(world, BOB, room_id)
    assert await world.database.fetchval(query) == world.committer.position


async def test_little_is_kept_in_memory(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users, their states, audiences and compiled rules are read again; entries are stored a few at
    a time."""
    for name, value in (
        ("PUSH_USERS_CACHED", 1),
        ("PUSH_STATES_CACHED", 1),
        ("PUSH_AUDIENCES_BYTES", 20 * limits.PUSH_AUDIENCE_MEMBER_BYTES),
        ("PUSH_RULESETS_COMPILED", 1),
        ("PUSH_ENTRIES_AT_ONCE", 1),
    ):
        monkeypatch.setattr(limits, name, value)
    path = "/pushrules/global/content/cake"
    async with sync_world(postgres_url) as syncs:
        world = syncs.world
        for user, actions in ((BOB, []), (CAROL, ["notify", {"set_tweak": "highlight"}])):
            body = {"pattern": "cake", "actions": actions}
            assert (await world.call(user, "PUT", path, body)).status == 200
        rooms = [await shared_room(syncs, BOB, CAROL) for _ in range(2)]
        for room_id in rooms * 2:
            await syncs.say(ALICE, room_id, f"cake {room_id}", f"hi {room_id}")
        for room_id in rooms:
            assert await counted(world, BOB, room_id) == {"main": (1, 0)}
            assert await counted(world, CAROL, room_id) == {"main": (2, 1)}
        states = world.push.counts._states
        assert (len(states._users), len(states._stored)) == (1, 1)


async def test_who_speaks_again_is_not_read_again(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await shared_room(syncs, BOB)
    await syncs.say(ALICE, room_id, "one")
    await syncs.world.push.counts.settled()
    reads: list[UserId] = []
    state_of = UnreadTable.state_of

    async def noted(table: UnreadTable, room: RoomId, user_id: UserId) -> RoomState:
        reads.append(user_id)
        return await state_of(table, room, user_id)

    monkeypatch.setattr(UnreadTable, "state_of", noted)
    for text in ("two", "three"):
        await syncs.say(ALICE, room_id, text)
        await syncs.world.push.counts.settled()
    assert reads == []
    [event_id] = await syncs.say(ALICE, room_id, "four")
    path = f"redact/{quote(event_id)}/t"
    assert (await syncs.world.in_room(ALICE, "PUT", room_id, path, {})).status == 200
    await syncs.say(ALICE, room_id, "five")
    await syncs.world.push.counts.settled()
    assert reads == [ALICE], "what a redaction changed is read"


async def test_a_start_reads_the_newest_events(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than are ever left behind."""
    async with sync_world(postgres_url) as syncs:
        room_id = await shared_room(syncs, BOB)
        await syncs.world.push.counts.settled()
        assert syncs.world.counting is not None
        syncs.world.counting.cancel()
        await syncs.say(ALICE, room_id, "1", "2", "3")
    monkeypatch.setattr(limits, "PUSH_REPLAYED_EVENTS", 2)
    async with sync_world(postgres_url) as syncs:
        assert await counted(syncs.world, BOB, room_id) == {"main": (2, 0)}


async def test_rules_are_carried_to_the_room_that_replaces_another(syncs: SyncWorld) -> None:
    """With the tags, when the user joins it."""
    world = syncs.world
    room_id = await shared_room(syncs, BOB)
    path = f"/pushrules/global/room/{quote(room_id, safe='')}"
    assert (await world.call(BOB, "PUT", path, {"actions": []})).status == 200
    reply = await world.in_room(ALICE, "POST", room_id, "upgrade", {"new_version": "11"})
    new = reply.body["replacement_room"]
    await syncs.join(new, BOB)
    rule = await world.call(BOB, "GET", f"/pushrules/global/room/{quote(new, safe='')}")
    assert (rule.status, rule.body["actions"]) == (200, [])
    await syncs.say(ALICE, new, "one")
    assert await counted(world, BOB, new) == {}


# Turns


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[PushWrites]:
    """What is stored from now on."""
    write, seen = UnreadTable.write, list[PushWrites]()

    async def noted(table: UnreadTable, writes: PushWrites) -> None:
        seen.append(writes)
        await write(table, writes)

    monkeypatch.setattr(UnreadTable, "write", noted)
    return seen


async def test_messages_are_stored_together_when_the_tables_are_read(
    syncs: SyncWorld, written: list[PushWrites], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts in memory cost no statement."""
    never_by_itself(monkeypatch)
    room_id = await shared_room(syncs, BOB)
    await counted(syncs.world, BOB, room_id)
    await syncs.world.push.counts.settled()
    written.clear()
    for number in range(1, 4):
        await syncs.say(ALICE, room_id, f"{number}")
        assert await counted(syncs.world, BOB, room_id) == {"main": (number, 0)}
    assert written == []
    await syncs.world.push.counts.stored(syncs.world.committer.position)
    assert [len(one.events) for one in written] == [3]
    await syncs.world.push.counts.stored(syncs.world.committer.position)
    assert len(written) == 1, "there is nothing more to store"


async def test_entries_wait_for_others_or_for_a_reader(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or for a number of them; then they are evaluated in one turn."""
    never_by_itself(monkeypatch)
    told: list[Evaluated] = []
    room_id = await shared_room(syncs, BOB)
    await syncs.world.push.counts.settled()
    syncs.world.push.evaluator.subscribe(told.append)
    await syncs.say(ALICE, room_id, "1", "2", "3")
    assert told == []
    await counted(syncs.world, BOB, room_id)
    assert len(told) == 3
    evaluated = asyncio.Event()
    syncs.world.push.evaluator.subscribe(lambda _: evaluated.set())
    monkeypatch.setattr(limits, "PUSH_ENTRIES_AT_ONCE", 2)
    await syncs.say(ALICE, room_id, "4")
    assert not evaluated.is_set()
    await syncs.say(ALICE, room_id, "5")
    await evaluated.wait()


async def test_entries_are_evaluated_and_stored_after_a_while(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody asks."""
    room_id = await shared_room(syncs, BOB)
    await syncs.world.push.counts.settled()
    is_stored, write = asyncio.Event(), UnreadTable.write

    async def noted(table: UnreadTable, writes: PushWrites) -> None:
        await write(table, writes)
        if writes.events:
            is_stored.set()

    monkeypatch.setattr(UnreadTable, "write", noted)
    monkeypatch.setattr(limits, "PUSH_PAUSE_S", 0.001)
    monkeypatch.setattr(limits, "PUSH_STORE_S", 0.001)
    await syncs.say(ALICE, room_id, "one")
    await is_stored.wait()


async def test_others_have_their_turn_between_entries(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few of them."""
    never_by_itself(monkeypatch)
    room_id = await shared_room(syncs, BOB)
    await syncs.world.push.counts.settled()
    events: list[str] = []
    syncs.world.push.evaluator.subscribe(lambda _: events.append("evaluated"))

    async def turns() -> None:
        while True:
            events.append("turn")
            await asyncio.sleep(0)

    for in_a_row, between in ((1, True), (16, False)):
        monkeypatch.setattr(limits, "PUSH_ENTRIES_IN_A_ROW", in_a_row)
        await syncs.say(ALICE, room_id, *(f"{in_a_row} {number}" for number in range(3)))
        events.clear()
        other = asyncio.ensure_future(turns())
        await counted(syncs.world, BOB, room_id)
        other.cancel()
        first = events.index("evaluated")
        assert ("turn" in events[first : first + 3]) is between


async def test_who_waits_while_something_is_stored_is_not_passed_over(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being stored has less than they wait for."""
    never_by_itself(monkeypatch)
    counts, write = syncs.world.push.counts, UnreadTable.write
    room_id = await shared_room(syncs, BOB)
    await counts.settled()
    waiting: list[asyncio.Future[None]] = []

    async def slow(table: UnreadTable, writes: PushWrites) -> None:
        if not waiting:
            await syncs.say(ALICE, room_id, "two")
            waiting.append(asyncio.ensure_future(counts.settled()))
            await asyncio.sleep(0)
        await write(table, writes)

    monkeypatch.setattr(UnreadTable, "write", slow)
    await syncs.say(ALICE, room_id, "one")
    await counts.stored(syncs.world.committer.position)
    await waiting[0]
    position = await syncs.world.database.fetchval("SELECT position FROM push_position")
    assert position == syncs.world.committer.position
