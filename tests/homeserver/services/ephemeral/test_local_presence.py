"""Local users: syncs, settings, activities, time, and what ends."""

import asyncio

import pytest

from federation.events.ids import DeviceId, RoomId
from homeserver import limits
from homeserver.engine.entries import Placed, ReceiptEntry
from tests.homeserver.device_world import ALICE, ANNA, BOB
from tests.homeserver.presence_world import DEVICE, PresenceWorld

ROOM = RoomId("!room:here.test")


@pytest.fixture
def world() -> PresenceWorld:
    world = PresenceWorld()
    world.put(ROOM, ALICE, ANNA, BOB)
    return world


def state(world: PresenceWorld) -> tuple[str, bool] | None:
    record = world.board.get(ALICE)
    return None if record is None else (record.shown.state, record.shown.is_active)


async def test_a_user_goes_through_all_states_by_the_clock(world: PresenceWorld) -> None:
    async with world.own.syncing(ALICE, DEVICE, None):
        assert state(world) == ("online", True)
        world.pass_time(limits.PRESENCE_ACTIVE_S)
        assert state(world) == ("online", False)
        world.pass_time(limits.PRESENCE_IDLE_S - limits.PRESENCE_ACTIVE_S)
        assert state(world) == ("unavailable", False)
        world.say(BOB, ROOM)
        assert state(world) == ("unavailable", False)
        world.say(ALICE, ROOM)
        assert state(world) == ("online", True)
    assert state(world) == ("online", True)
    world.pass_time(limits.PRESENCE_OFFLINE_S)
    assert state(world) == ("offline", False)
    assert world.own.expire() is None
    world.say(ALICE, ROOM)
    assert state(world) == ("offline", False)


async def test_a_hidden_user_leaves_no_trace(world: PresenceWorld) -> None:
    await world.sync(ALICE, said="offline")
    world.say(ALICE, ROOM)
    assert state(world) is None
    assert world.board.count == 0
    await world.own.set(ALICE, DEVICE, "online", None)
    await world.sync(ALICE, said="offline")
    assert state(world) == ("online", True)


@pytest.mark.parametrize(
    ("kind", "seen"), [("m.read", ("online", True)), ("m.read.private", ("online", False))]
)
async def test_a_public_receipt_is_an_activity(
    world: PresenceWorld, kind: str, seen: tuple[str, bool]
) -> None:
    async with world.own.syncing(ALICE, DEVICE, None):
        world.pass_time(limits.PRESENCE_ACTIVE_S)
        receipt = ReceiptEntry(ROOM, ALICE, kind, "", "$e", 0)  # type: ignore[arg-type]
        world.own.on_commit([Placed(1, receipt)])
        assert state(world) == seen


async def test_a_state_that_is_set_holds_for_its_time(world: PresenceWorld) -> None:
    for lasts_s in (limits.PRESENCE_SET_S, limits.PRESENCE_SET_BY_SERVICE_S):
        await world.own.set(ALICE, DEVICE, "unavailable", "out", lasts_s=lasts_s)
        world.pass_time(lasts_s - 1)
        assert state(world) == ("unavailable", False)
        world.pass_time(1)
        assert state(world) == ("offline", False)
    await world.sync(ALICE)
    record = world.board.get(ALICE)
    assert record is not None
    assert record.shown.status == "out", "the status outlives what it was set with"


async def test_a_device_that_logs_out_is_gone(world: PresenceWorld) -> None:
    async with world.own.syncing(ALICE, DEVICE, None):
        await world.sync(ALICE, DeviceId("PHONE"), "unavailable")
        assert await world.own.on_devices_deleted(None, ALICE, [DEVICE]) == []
        assert state(world) == ("unavailable", False)
    assert state(world) == ("unavailable", False)
    await world.own.on_devices_deleted(None, ANNA, [DEVICE])


async def test_an_ended_account_says_nothing(world: PresenceWorld) -> None:
    world.profiles[ALICE] = {"displayname": "Alice"}
    await world.own.set(ALICE, DEVICE, "online", "here")
    world.own.on_deactivated(ALICE)
    world.own.on_deactivated(ANNA)
    assert state(world) == ("offline", False)
    record = world.board.get(ALICE)
    assert record is not None
    assert (record.shown.status, record.profile) == (None, {})


async def test_a_new_profile_is_told(world: PresenceWorld) -> None:
    await world.sync(ALICE)
    since = world.token()
    assert await world.read(ANNA, since) == ({}, since)
    world.profiles[ALICE] = {"displayname": "Alice"}
    await world.own.on_profile_changed(ALICE)
    seen, _ = await world.read(ANNA, since)
    assert seen[ALICE]["displayname"] == "Alice"
    assert seen[ALICE]["presence"] == "online"
    await world.own.on_profile_changed(ANNA)
    seen, _ = await world.read(ALICE, since)
    assert seen[ANNA] == {"presence": "offline"}


async def test_a_change_looks_at_no_room_and_asks_for_nothing(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rooms a user has: what is read once is read."""

    class Untouchable(set[RoomId]):
        """Rooms that nobody may look at."""

        __iter__ = __contains__ = isdisjoint = __len__ = None  # type: ignore[assignment]

    async def servers(_: object) -> tuple[()]:
        asked.append(None)
        return ()

    asked: list[None] = []
    monkeypatch.setattr(world.feed, "_servers_of", servers)
    await world.sync(ALICE)
    world.rooms._rooms[ALICE] = Untouchable()
    loads = world.loads
    for state in ("online", "unavailable", "offline", "online"):
        await world.own.set(ALICE, DEVICE, state, None)
        await world.flush()
        world.say(ALICE, ROOM)
        world.pass_time(limits.PRESENCE_ACTIVE_S)
    assert (world.loads, len(asked)) == (loads, 1)


async def test_without_place_a_user_is_offline(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_LOCAL_USERS", 1)
    async with world.own.syncing(ANNA, DEVICE, None):
        await world.sync(ALICE)
        await world.own.on_profile_changed(ALICE)
        assert state(world) is None
        assert not world.rooms.knows(ALICE)
    world.pass_time(limits.PRESENCE_OFFLINE_S)
    await world.sync(ALICE)
    assert state(world) == ("online", True)
    assert world.board.get(ANNA) is None


async def test_who_was_there_before_a_start_and_doesnt_come_back_is_offline(
    world: PresenceWorld,
) -> None:
    now_ms = world.clock.now_ms()
    world.seen = [
        (ALICE, now_ms - 5_000),
        (ANNA, now_ms - 5_000),
        (BOB, now_ms - limits.PRESENCE_SEEN_MS - 1),
    ]
    await world.sync(ANNA)
    since = world.token(boot=0)
    await world.own.tell_gone()
    seen, _ = await world.read(ANNA, since)
    assert seen[ALICE] == {"presence": "offline"}, "not since when: she may have hidden"
    assert seen[ANNA]["presence"] == "online"
    assert BOB not in seen
    assert limits.PRESENCE_SEEN_MS > limits.SEEN_FLUSH_S * 1000
    assert limits.PRESENCE_SEEN_USERS <= limits.PRESENCE_LOCAL_USERS


async def test_the_task_does_what_is_due_and_waits_for_what_comes(world: PresenceWorld) -> None:
    task = asyncio.create_task(world.own.run())
    await asyncio.sleep(0)
    await world.sync(ALICE)
    while state(world) != ("offline", False):
        await asyncio.sleep(0)  # the clock jumps with each sleep of the task
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    assert limits.PRESENCE_CHECK_S_MIN < limits.PRESENCE_CHECK_S_MAX


async def test_who_chooses_to_be_offline_shows_nobody_that_they_are_there(
    world: PresenceWorld,
) -> None:
    since = world.token()
    await world.own.set(ALICE, DEVICE, "offline", None)
    seen, _ = await world.read(ANNA, since)
    assert ALICE not in seen


async def test_what_is_due_at_once_is_done_in_parts(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRESENCE_STEP", 1)
    for user in (ALICE, ANNA):
        await world.sync(user)
    world.clock.seconds += limits.PRESENCE_OFFLINE_S
    assert world.own.expire() == 0
    states = [world.board.get(user) for user in (ALICE, ANNA)]
    assert sorted(one.shown.state for one in states if one) == ["offline", "online"]
    while world.own.expire() == 0:
        pass
    assert {one.shown.state for one in states if one} == {"offline"}
