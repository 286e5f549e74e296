"""One push after the other to one pusher: what is owed first, and what follows from an answer."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver import limits
from homeserver.rules.push.pushers import gateway_of
from homeserver.services.push.delivery.attempts import (
    Attempt,
    AttemptState,
    OwedPushes,
    PushAttempts,
)
from homeserver.services.push.delivery.gateways import PushFailure
from homeserver.storage.database import Database
from homeserver.storage.push.pushers import PusherProgress
from tests.federation.transport.memory_ports import JumpingClock
from tests.homeserver.services.push.delivery.push_world import (
    ALICE,
    BOB,
    MemorySource,
    PushWorld,
    failed,
)

MADE, NOTHING, HELD_BACK = Attempt.MADE, Attempt.NOTHING, Attempt.HELD_BACK


class Steps:
    """The pusher "phone" of ALICE, step by step."""

    def __init__(self, world: PushWorld, pusher_id: int) -> None:
        self.world, self.pusher_id = world, pusher_id
        self.attempts = PushAttempts(world.table, world.ports)
        self.state = AttemptState()

    async def step(self) -> Attempt:
        stored = await self.world.table.load(self.pusher_id)
        assert stored is not None
        gateway = gateway_of(stored.pusher)
        assert gateway is not None
        return await self.attempts.step(stored, gateway, self.state)

    async def all(self) -> None:
        """Steps until nothing is owed."""
        for _ in range(100):
            if await self.step() is not MADE:
                return
        raise AssertionError("it goes on for ever")

    async def progress(self) -> PusherProgress:
        return await self.world.progress(self.pusher_id)

    @property
    def told(self) -> list[str | int]:
        return self.world.gateways.told()


@pytest.fixture
async def steps(database: Database) -> Steps:
    clock = JumpingClock()
    world = PushWorld(database, clock, MemorySource(clock))
    world.serves = False
    return Steps(world, await world.set())


async def test_notifications_are_told_in_order(steps: Steps) -> None:
    source = steps.world.source
    first, second = source.add(), source.add(room="b")
    source.add(BOB)
    assert [await steps.step() for _ in range(3)] == [MADE, MADE, NOTHING]
    assert steps.told == [first, second]
    assert await steps.progress() == PusherProgress(102, badge=2)
    assert [one["counts"] for one in steps.world.gateways.sent] == [{"unread": 2}] * 2


async def test_what_was_there_before_the_pusher_is_not_told(steps: Steps) -> None:
    steps.world.source.add()
    later = await steps.world.set("later")
    assert (await steps.world.progress(later)).cursor == 101
    steps.pusher_id = later
    await steps.step()
    assert steps.world.gateways.told("later") == [1]


async def test_tweaks_are_those_of_the_rule(steps: Steps) -> None:
    steps.world.source.add(ALICE, "a", {"set_tweak": "sound", "value": "ring"})
    await steps.step()
    assert steps.world.gateways.sent[0]["devices"][0]["tweaks"] == {"sound": "ring"}


async def test_a_change_of_the_count_is_told_alone(steps: Steps) -> None:
    source = steps.world.source
    event_id = source.add()
    await steps.all()
    source.read()
    assert [await steps.step(), await steps.step()] == [MADE, NOTHING]
    assert steps.told == [event_id, 0]
    assert (await steps.progress()).badge == 0


async def test_counts_alone_are_told_with_pauses(steps: Steps) -> None:
    source = steps.world.source
    source.counts[ALICE] = 5
    assert await steps.step() is MADE
    source.counts[ALICE] = 4
    assert await steps.step() is HELD_BACK
    source.counts[ALICE] = 3
    steps.world.clock.jump(limits.PUSH_BADGE_PAUSE_S - 0.01)
    assert await steps.step() is HELD_BACK
    steps.world.clock.jump(0.02)
    assert [await steps.step(), await steps.step()] == [MADE, NOTHING]
    assert steps.told == [5, 3]


async def test_what_was_read_is_not_told(steps: Steps) -> None:
    steps.world.source.add()
    steps.world.source.read()
    assert await steps.step() is NOTHING
    assert steps.told == []


async def test_what_is_hidden_or_redacted_is_passed_over(steps: Steps) -> None:
    source = steps.world.source
    hidden, shown = source.add(), source.add()
    steps.world.contents.hidden.add(hidden)
    await steps.all()
    assert steps.told == [shown]


async def test_what_is_too_old_is_not_told(steps: Steps) -> None:
    source, clock = steps.world.source, steps.world.clock
    source.add()
    clock.jump(1)
    young = source.add()
    clock.jump(limits.PUSH_AGE_MS / 1000 - 1)
    await steps.all()
    assert steps.told[0] == young
    clock.jump(1)
    source.add()
    clock.jump(limits.PUSH_AGE_MS / 1000)
    await steps.all()
    assert len(steps.told) == 2  # the last one is the count alone


async def test_many_are_told_by_the_newest_of_each_room(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUSHES_IN_A_ROW", 3)
    source = steps.world.source
    few = [source.add(room=room) for room in "aab"]
    await steps.all()
    assert steps.told == few
    many = [source.add(room=room) for room in "dabbcca"]
    await steps.step()
    late = source.add(room="b")  # while the many are being told
    await steps.all()
    assert steps.told[3:] == [many[3], many[5], many[6], late]


async def test_many_that_are_read_meanwhile_are_not_told(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUSHES_IN_A_ROW", 2)
    source = steps.world.source
    many = [source.add(room=room) for room in "abc"]
    await steps.step()
    source.read()
    await steps.all()
    assert steps.told == [many[1], 0]
    again = source.add()
    await steps.all()
    assert steps.told == [many[1], 0, again]


async def test_a_rejected_key_is_deleted_with_its_pusher(steps: Steps) -> None:
    world = steps.world
    await world.set("other")
    await world.set("phone", BOB)
    world.source.add()
    world.gateways.rejected = frozenset({"phone", "other"})  # it was sent "phone" alone
    await steps.step()
    assert await world.table.load(steps.pusher_id) is None
    assert [one.key.pushkey for one in await world.table.load_of(ALICE)] == ["other"]
    assert len(await world.table.load_of(BOB)) == 1


async def test_waits_double_and_end_with_a_success(steps: Steps) -> None:
    world, event_id = steps.world, steps.world.source.add()
    world.gateways.failing["phone"] = failed()
    waits = []
    for count in range(1, 15):
        await steps.step()
        progress = await steps.progress()
        assert (progress.cursor, progress.failures) == (100, count)
        assert progress.failing_since_ms == world.clock.now_ms()
        assert progress.retry_at_ms is not None
        waits.append((progress.retry_at_ms - world.clock.now_ms()) / 1000)
    first, most = limits.PUSH_RETRY_S_MIN, limits.PUSH_RETRY_S_MAX
    assert waits == [min(first * 2**n, most) for n in range(14)]
    del world.gateways.failing["phone"]
    await steps.step()
    assert await steps.progress() == PusherProgress(101, badge=1)
    assert set(steps.told) == {event_id}


async def test_a_part_of_a_wait_is_random(steps: Steps) -> None:
    world = steps.world
    world.source.add()
    world.gateways.failing["phone"] = failed()
    world.random = 0.999
    await steps.step()
    progress = await steps.progress()
    assert progress.retry_at_ms is not None
    wait_s = (progress.retry_at_ms - world.clock.now_ms()) / 1000
    least_s = limits.PUSH_RETRY_S_MIN * (1 - limits.PUSH_RETRY_JITTER)
    assert wait_s == pytest.approx(least_s, rel=0.01)


async def test_a_gateway_that_asks_to_wait_is_heard(steps: Steps) -> None:
    world = steps.world
    world.source.add()
    world.gateways.failing["phone"] = failed(PushFailure.BUSY, after_s=77)
    await steps.step()
    assert (await steps.progress()).retry_at_ms == world.clock.now_ms() + 77_000


async def test_what_a_gateway_refuses_is_passed_over(steps: Steps) -> None:
    world = steps.world
    refused, next_one = world.source.add(), world.source.add(room="b")
    world.gateways.failing["phone"] = failed(PushFailure.REFUSED)
    for _ in range(limits.PUSH_REFUSALS):
        await steps.step()
    assert steps.told == [refused] * limits.PUSH_REFUSALS
    assert (await steps.progress()).cursor == 101
    del world.gateways.failing["phone"]
    await steps.all()
    assert steps.told[limits.PUSH_REFUSALS :] == [next_one]


async def test_a_count_that_a_gateway_refuses_is_passed_over(steps: Steps) -> None:
    world = steps.world
    world.source.counts[ALICE] = 3
    world.gateways.failing["phone"] = failed(PushFailure.REFUSED)
    for _ in range(limits.PUSH_REFUSALS):
        assert await steps.step() is MADE
        world.clock.jump(limits.PUSH_BADGE_PAUSE_S)
    assert await steps.step() is NOTHING


async def test_a_count_is_given_up_after_a_long_time(steps: Steps) -> None:
    world = steps.world
    world.source.counts[ALICE] = 3
    world.gateways.failing["phone"] = failed(PushFailure.UNREACHABLE)
    await steps.step()
    world.clock.jump(limits.PUSH_AGE_MS / 1000)
    await steps.step()
    assert (await steps.progress()).badge == 0
    world.clock.jump(limits.PUSH_BADGE_PAUSE_S)
    await steps.step()
    assert (await steps.progress()).badge == 3
    assert await steps.step() is NOTHING


async def test_what_fails_here_is_passed_over_like_what_is_refused(steps: Steps) -> None:
    world = steps.world
    world.contents.broken.add(world.source.add())
    stored = await world.table.load(steps.pusher_id)
    for _ in range(limits.PUSH_REFUSALS):
        with pytest.raises(RuntimeError):
            await steps.step()
        stored = await world.table.load(steps.pusher_id)
        assert stored is not None
        await steps.attempts.give_up(stored, steps.state)
    assert (await steps.progress()).cursor == 101
    assert stored is not None
    await steps.attempts.give_up(stored, steps.state)
    assert (await steps.progress()).failures == limits.PUSH_REFUSALS


async def test_a_cursor_is_stored_now_and_then_though_nothing_is_told(steps: Steps) -> None:
    source = steps.world.source
    source.position += limits.PUSH_CURSOR_POSITIONS - 1
    await steps.step()
    assert (await steps.progress()).cursor == 100
    source.position += 1
    await steps.step()
    assert (await steps.progress()).cursor == source.position


async def test_pushes_are_counted(steps: Steps) -> None:
    world = steps.world
    world.source.add()
    await steps.step()
    world.source.read()
    await steps.step()
    world.source.add()
    world.gateways.failing["phone"] = failed(PushFailure.BUSY)
    await steps.step()
    world.gateways.failing.clear()
    world.gateways.rejected = frozenset({"phone"})
    await steps.step()
    text = world.metrics.text().decode()
    for line in (
        'freehold_pushes_sent_total{of="event"} 2.0',
        'freehold_pushes_sent_total{of="count"} 1.0',
        'freehold_pushes_failed_total{reason="busy"} 1.0',
        "freehold_pushers_rejected_total 1.0",
    ):
        assert line in text


async def test_a_count_alone_has_nothing_in_it_that_is_still_to_be_told(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, owed = steps.world.source, MemorySource.owed
    came: list[str] = []

    async def then_one_comes(*given: Any, **named: Any) -> OwedPushes:
        found = await owed(*given, **named)
        if not came:
            came.append(source.add())
        return found

    monkeypatch.setattr(MemorySource, "owed", then_one_comes)
    assert await steps.step() is NOTHING
    await steps.all()
    assert steps.told == came
