"""The tasks of pushers: which are served, for how long, and what a start resumes."""

from __future__ import annotations

import pytest

from homeserver import limits
from homeserver.services.push.delivery.gateways import PushFailure
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.push.pushers import PusherTable, StoredPusher
from tests.federation.transport.memory_ports import until
from tests.homeserver.services.push.delivery.push_world import ALICE, BOB, failed, push_world


async def test_each_pusher_of_a_user_is_told(database: Database) -> None:
    async with push_world(database) as world:
        await world.set("phone")
        await world.set("tablet")
        await world.set("bob's", BOB)
        event_id = world.notify()
        await world.until_told(event_id)
        await world.until_told(event_id, pushkey="tablet")
        assert world.gateways.told("bob's") == []


async def test_reading_elsewhere_updates_the_count(database: Database) -> None:
    async with push_world(database) as world:
        await world.set()
        event_id = world.notify()
        await world.until_told(event_id)
        world.read()
        await world.until_told(event_id, 0)


async def test_a_count_that_was_held_back_is_told_after_the_pause(database: Database) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        for count in (5, 4):
            world.source.counts[ALICE] = count
            world.deliveries.on_changed([ALICE])
            await world.until_sent(1)
        await world.until_idle(pusher_id)
        assert world.gateways.told() == [5, 4]


async def test_a_task_ends_when_nothing_is_owed_for_a_while(database: Database) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        first = world.notify()
        await world.until_told(first)
        assert world.deliveries.is_serving(pusher_id)
        began_s = world.clock.elapsed_s
        await world.until_idle(pusher_id)
        assert world.clock.elapsed_s - began_s >= limits.PUSH_IDLE_S
        second = world.notify()
        assert world.deliveries.is_serving(pusher_id)
        await world.until_told(first, second)


async def test_a_start_tells_what_is_owed_and_no_more(database: Database) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        first = world.notify()
        await world.until_told(first)
        await world.until_stored(pusher_id, lambda progress: progress.cursor == 101)
        clock, source = world.clock, world.source
    second = source.add()
    source.lags = [(ALICE, pusher_id)]
    async with push_world(database, clock, source) as world:
        await world.until_told(second)
        third = world.notify()
        await world.until_told(second, third)


async def test_a_start_serves_nobody_who_is_owed_nothing(database: Database) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        clock, source = world.clock, world.source
    async with push_world(database, clock, source) as world:
        assert not world.deliveries.is_serving(pusher_id)
        await world.until_told(world.notify())


async def test_a_failing_pusher_waits_and_then_goes_on(database: Database) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        world.gateways.failing["phone"] = failed()
        event_id = world.notify()
        await world.until_sent(1)
        later = world.notify()  # no reason to try again earlier

        def is_tried_again() -> bool:
            world.clock.jump(1)
            return len(world.gateways.told()) == 2

        began_s = world.clock.elapsed_s
        await until(is_tried_again)
        assert world.clock.elapsed_s - began_s >= limits.PUSH_RETRY_S_MIN
        assert world.gateways.turns[-1]
        del world.gateways.failing["phone"]
        await world.until_idle(pusher_id)
        assert world.gateways.told() == [event_id, event_id, event_id, later]
        assert (await world.progress(pusher_id)).failures == 0
        assert not world.gateways.turns[-1]


async def test_a_pusher_that_is_set_anew_is_tried_at_once(database: Database) -> None:
    async with push_world(database) as world:
        await world.set()
        world.gateways.failing["phone"] = failed(PushFailure.BUSY, after_s=3000)
        event_id = world.notify()
        await world.until_sent(1)
        world.gateways.failing.clear()
        await world.set()
        await world.until_told(event_id, event_id)


async def test_a_back_off_outlives_a_restart_but_not_a_changed_clock(database: Database) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        world.gateways.failing["phone"] = failed(PushFailure.BUSY, after_s=3000)
        event_id = world.notify()
        await world.until_stored(pusher_id, lambda progress: progress.failures == 1)
        clock, source = world.clock, world.source
    source.lags = [(ALICE, pusher_id)]
    clock.set_by(-1_000_000)
    async with push_world(database, clock, source) as world:
        began_s = clock.elapsed_s

        def is_tried_again() -> bool:
            clock.jump(10)
            return len(world.gateways.told()) == 1

        await until(is_tried_again)
        assert world.gateways.told() == [event_id]
        assert clock.elapsed_s - began_s >= limits.PUSH_RETRY_S_MAX - 20


async def test_no_pusher_waits_for_another(database: Database) -> None:
    async with push_world(database) as world:
        for pushkey in ("fails", "stalls", "phone"):
            await world.set(pushkey)
        world.gateways.failing["fails"] = failed()
        world.gateways.stalled.add("stalls")
        sent = [world.notify() for _ in range(3)]
        await world.until_told(*sent)
        await world.until_told(sent[0], pushkey="stalls")
        await world.until_told(sent[0], pushkey="fails")


async def test_a_locked_user_is_told_once_the_lock_ends(database: Database) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        await database.execute(
            "INSERT INTO accounts (user_id, created_ms, is_locked) VALUES ($1, 0, true)", ALICE
        )
        first = world.notify()
        await world.until_idle(pusher_id)
        assert world.gateways.told() == [], "who took the device reads on"
        await database.execute("UPDATE accounts SET is_locked = false")
        await world.until_told(first, world.notify())


async def test_a_pusher_that_is_deleted_is_served_no_more(database: Database) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        await world.until_idle(pusher_id)
        await database.execute("DELETE FROM pushers")
        world.notify()
        await until(lambda: not world.deliveries.is_serving(pusher_id))
        world.notify()
        assert not world.deliveries.is_serving(pusher_id)
        assert world.gateways.told() == []
        await world.set()
        await world.until_told(world.notify())


async def test_a_gateway_that_changes_gets_the_next_one(database: Database) -> None:
    async with push_world(database) as world:
        await world.set()
        first = world.notify()
        await world.until_told(first)
        await world.set(url="https://other.example/_matrix/push/v1/notify")
        second = world.notify()
        await world.until_told(first, second)


async def test_a_task_that_fails_passes_over_what_it_fails_on(database: Database) -> None:
    async with push_world(database) as world:
        world.tasks.restarts = True
        pusher_id = await world.set()
        world.contents.broken.add(world.notify())
        good = world.notify()

        def is_over_it() -> bool:
            world.clock.jump(10)
            return world.gateways.told() == [good]

        await until(is_over_it)
        await world.until_idle(pusher_id)


async def test_a_lost_database_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with push_world(database) as world:
        pusher_id = await world.set()
        await world.until_idle(pusher_id)
        load, tries = PusherTable.load, []

        async def lost(table: PusherTable, wanted: int) -> StoredPusher | None:
            tries.append(world.clock.elapsed_s)
            if len(tries) == 1:
                raise DatabaseUnavailable("away")
            return await load(table, wanted)

        monkeypatch.setattr(PusherTable, "load", lost)
        event_id = world.notify()

        def is_told() -> bool:
            world.clock.jump(1)
            return world.gateways.told() == [event_id]

        await until(is_told)
        assert tries[1] - tries[0] >= limits.PUSH_DATABASE_RETRY_S
