"""What other servers are told: the latest, together, in turns, and nothing while they are down."""

import asyncio
from typing import Any

import pytest

from federation.events.ids import RoomId, ServerName, UserId, server_of
from homeserver import limits
from tests.homeserver.device_world import ALICE, ANNA, BOB, HERE, THERE
from tests.homeserver.presence_world import DEVICE, PresenceWorld

ROOM, OTHER = RoomId("!room:here.test"), RoomId("!other:here.test")
MALLORY = UserId("@mallory:elsewhere.test")
ELSEWHERE = server_of(MALLORY)


@pytest.fixture
def world() -> PresenceWorld:
    world = PresenceWorld()
    world.put(ROOM, ALICE, BOB)
    world.put(OTHER, ANNA)
    return world


def states(sent: Any) -> dict[ServerName, dict[str, str]]:
    return {
        server: {one["user_id"]: one["presence"] for one in content["push"]}
        for server, content in sent
    }


async def test_all_changes_go_in_one_edu_with_the_latest_state(world: PresenceWorld) -> None:
    world.member(ROOM, ANNA, "join")
    await world.own.set(ALICE, DEVICE, "online", "one")
    await world.own.set(ANNA, DEVICE, "unavailable", None)
    await world.own.set(ALICE, DEVICE, "unavailable", "two")
    world.clock.seconds += 2
    [(server, content)] = await world.flush()
    assert server == THERE
    assert sorted(content["push"], key=lambda one: str(one["user_id"])) == [
        {
            "user_id": ALICE,
            "presence": "unavailable",
            "status_msg": "two",
            "last_active_ago": 2000,
        },
        {"user_id": ANNA, "presence": "unavailable", "last_active_ago": 2000},
    ]
    assert await world.flush() == []


async def test_only_servers_that_share_a_room_are_told_of_our_users(world: PresenceWorld) -> None:
    await world.sync(ANNA)
    push = [{"user_id": BOB, "presence": "online", "last_active_ago": 1}]
    await world.remote.receive(THERE, {"push": push})
    assert await world.flush() == []
    await world.sync(ALICE)
    assert states(await world.flush()) == {THERE: {ALICE: "online"}}


async def test_a_server_that_is_down_is_told_when_it_is_up_again(world: PresenceWorld) -> None:
    world.member(ROOM, ANNA, "join")
    world.member(ROOM, MALLORY, "join")
    await world.flush()
    world.health.down.add(THERE)
    await world.sync(ALICE)
    assert states(await world.flush()) == {ELSEWHERE: {ALICE: "online"}}
    await world.own.set(ANNA, DEVICE, "online", None)
    world.health.down.add(ELSEWHERE)
    assert await world.flush() == []
    world.pass_time(limits.PRESENCE_OFFLINE_S)
    assert await world.flush() == []
    world.health.recover(THERE)
    assert states(await world.flush()) == {THERE: {ANNA: "online"}}


async def test_a_server_that_fails_before_its_turn_is_passed_over(world: PresenceWorld) -> None:
    await world.sync(ALICE)
    await world.feed.collect()
    world.health.down.add(THERE)
    world.feed.send()
    world.health.down.clear()
    assert world.sent == []
    assert await world.flush() == []


async def test_a_new_server_is_told_who_is_there(world: PresenceWorld) -> None:
    world.member(ROOM, ANNA, "join")
    await world.sync(ALICE)
    await world.flush()
    world.member(ROOM, MALLORY, "join")
    assert states(await world.flush()) == {ELSEWHERE: {ALICE: "online"}}
    world.member(ROOM, UserId("@second:elsewhere.test"), "join")
    assert await world.flush() == [], "the server knows it"
    await world.own.set(ALICE, DEVICE, "unavailable", None)
    assert set(states(await world.flush())) == {THERE, ELSEWHERE}
    world.member(ROOM, MALLORY, "leave")
    world.member(ROOM, UserId("@second:elsewhere.test"), "leave")
    await world.own.set(ALICE, DEVICE, "online", None)
    assert set(states(await world.flush())) == {THERE}


async def test_the_servers_of_a_users_new_room_are_told(world: PresenceWorld) -> None:
    await world.sync(ANNA)
    assert await world.flush() == []
    world.member(ROOM, ANNA, "join")
    assert states(await world.flush()) == {THERE: {ANNA: "online"}}
    world.member(ROOM, ANNA, "join")
    assert await world.flush() == []
    world.member(ROOM, ANNA, "leave")
    await world.own.set(ANNA, DEVICE, "unavailable", None)
    assert await world.flush() == []


async def test_who_stays_is_told_again(world: PresenceWorld) -> None:
    async with world.own.syncing(ALICE, DEVICE, None):
        world.pass_time(limits.PRESENCE_IDLE_S)
        assert states(await world.flush()) == {THERE: {ALICE: "unavailable"}}
        world.pass_time(limits.PRESENCE_REPEAT_S - 1)
        assert await world.flush() == []
        for _ in range(2):
            world.pass_time(limits.PRESENCE_REPEAT_S)
            assert states(await world.flush()) == {THERE: {ALICE: "unavailable"}}
    world.pass_time(limits.PRESENCE_OFFLINE_S)
    assert states(await world.flush()) == {THERE: {ALICE: "offline"}}
    world.pass_time(limits.PRESENCE_REPEAT_S)
    assert await world.flush() == []


def many(count: int) -> list[UserId]:
    return [UserId(f"@user:s{number}.test") for number in range(count)]


async def test_servers_are_told_in_turns(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_SERVERS_AT_ONCE", 3)
    monkeypatch.setattr("homeserver.limits.PRESENCE_STEP", 2)
    assert (limits.PRESENCE_SERVERS_AT_ONCE, limits.PRESENCE_STEP) == (3, 2)
    world.put(ROOM, ALICE, *many(5))
    await world.sync(ALICE)
    first = states(await world.flush())
    assert len(first) == 3
    await world.own.set(ALICE, DEVICE, "unavailable", None)
    second = await world.flush()
    assert len(second) == 3
    assert set(states(second)) - set(first) == {server_of(one) for one in many(5)} - set(first)
    assert {state for one in states(second).values() for state in one.values()} == {"unavailable"}
    third = await world.flush()
    assert len(third) == 2
    assert await world.flush() == []


async def test_an_edu_has_so_many_users_and_the_next_one_the_others(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_UPDATES_PER_EDU", 1)
    assert limits.PRESENCE_UPDATES_PER_EDU == 1
    world.member(ROOM, ANNA, "join")
    await world.sync(ALICE)
    await world.sync(ANNA)
    told = [states(await world.flush())[THERE] for _ in range(2)]
    assert told == [{ALICE: "online"}, {ANNA: "online"}]
    assert await world.flush() == []


async def test_what_waits_is_bounded(world: PresenceWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_PENDING_PAIRS", 2)
    assert limits.PRESENCE_PENDING_PAIRS == 2
    world.put(ROOM, ALICE, *many(3))
    await world.sync(ALICE)
    assert len(await world.flush()) == 2
    await world.own.set(ALICE, DEVICE, "unavailable", None)
    assert len(await world.flush()) == 2


async def test_the_servers_of_users_are_kept_within_a_bound(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_SERVERS_KEPT", 1)
    assert limits.PRESENCE_SERVERS_KEPT == 1
    world.member(ROOM, ANNA, "join")
    for state in ("online", "unavailable", "online"):
        for user in (ALICE, ANNA):
            await world.own.set(user, DEVICE, state, None)
            assert states(await world.flush()) == {THERE: {user: state}}
    assert world.feed._kept_pairs == 1


async def test_a_user_who_is_dropped_is_told_no_more(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sync(ALICE)
    await world.feed.collect()
    world.board.drop(ALICE)
    world.feed.send()
    assert world.sent == []
    assert HERE not in states(await world.flush())


async def test_the_task_waits_and_then_sends_what_came_together(world: PresenceWorld) -> None:
    task = asyncio.create_task(world.feed.run())
    await asyncio.sleep(0)
    before_s = world.clock.seconds
    await world.own.set(ALICE, DEVICE, "online", None)
    await world.own.set(ALICE, DEVICE, "unavailable", None)
    while not world.sent:
        await asyncio.sleep(0)
    assert states(world.sent) == {THERE: {ALICE: "unavailable"}}
    assert world.clock.seconds - before_s >= limits.PRESENCE_SEND_S
    task.cancel()
