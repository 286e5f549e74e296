"""What other servers say of their users."""

import asyncio
from typing import Any

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from tests.homeserver.device_world import ALICE, ANNA, BOB, THERE
from tests.homeserver.presence_world import PresenceWorld

ROOM = RoomId("!room:here.test")
BEN, MALLORY = UserId("@ben:there.test"), UserId("@mallory:elsewhere.test")


@pytest.fixture
def world() -> PresenceWorld:
    world = PresenceWorld()
    world.put(ROOM, ALICE, BOB, MALLORY)
    return world


def update(user_id: UserId = BOB, presence: str = "online", **more: Any) -> dict[str, Any]:
    return {"user_id": user_id, "presence": presence, "last_active_ago": 2000, **more}


async def test_what_a_server_says_is_seen(world: PresenceWorld) -> None:
    push = [update(currently_active=True, status_msg="hi"), update(BEN)]
    await world.remote.receive(THERE, {"push": push})
    seen, since = await world.read(ALICE)
    assert seen == {
        BOB: {
            "presence": "online",
            "last_active_ago": 2000,
            "currently_active": True,
            "status_msg": "hi",
        }
    }
    assert world.board.get(BEN) is None, "who shares no room isn't kept"
    assert not world.rooms.knows(BEN)
    await world.remote.receive(THERE, {"push": [update(BOB, "unavailable", currently_active=True)]})
    seen, _ = await world.read(ALICE, since)
    assert seen == {BOB: {"presence": "unavailable", "last_active_ago": 2000}}


async def test_a_server_speaks_for_its_own_users_alone(world: PresenceWorld) -> None:
    await world.remote.receive(THERE, {"push": [update(MALLORY), update(ALICE)]})
    assert len(world.board) == 0


async def test_of_one_user_the_last_update_counts(world: PresenceWorld) -> None:
    await world.remote.receive(THERE, {"push": [update(), update(presence="unavailable")]})
    record = world.board.get(BOB)
    assert record is not None
    assert record.shown.state == "unavailable"
    assert world.board.count == record.number


async def test_a_user_of_whom_nothing_is_said_for_long_is_offline(world: PresenceWorld) -> None:
    await world.remote.receive(THERE, {"push": [update(status_msg="hi")]})
    world.pass_time(limits.PRESENCE_REMOTE_S - 1)
    await world.remote.receive(THERE, {"push": [update(status_msg="hi")]})
    world.pass_time(limits.PRESENCE_REMOTE_S - 1)
    seen, since = await world.read(ALICE)
    assert seen[BOB]["presence"] == "online"
    world.pass_time(1)
    seen, _ = await world.read(ALICE, since)
    ago_ms = 2000 + limits.PRESENCE_REMOTE_S * 1000
    assert seen[BOB] == {"presence": "offline", "status_msg": "hi", "last_active_ago": ago_ms}
    assert limits.PRESENCE_REPEAT_S < limits.PRESENCE_REMOTE_S


async def test_offline_users_who_never_were_there_take_no_place(world: PresenceWorld) -> None:
    await world.remote.receive(THERE, {"push": [update(presence="offline")]})
    assert (len(world.board), world.rooms.pairs) == (0, 0)


async def test_of_a_user_who_shares_no_room_any_more_nothing_is_heard(
    world: PresenceWorld,
) -> None:
    await world.remote.receive(THERE, {"push": [update()]})
    world.member(ROOM, BOB, "leave")
    assert await world.read(ALICE) == ({}, world.token())
    await world.remote.receive(THERE, {"push": [update(presence="unavailable")]})
    record = world.board.get(BOB)
    assert record is not None
    assert record.shown.state == "online"
    world.pass_time(limits.PRESENCE_REMOTE_S)
    assert record.shown.state == "offline", "nor is it taken to last"


async def test_without_place_a_user_is_ignored(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_REMOTE_USERS_PER_SERVER", 1)
    world.member(ROOM, BEN, "join")
    await world.remote.receive(THERE, {"push": [update(), update(BEN)]})
    assert world.board.get(BEN) is None
    assert not world.rooms.knows(BEN)


async def test_many_updates_let_others_have_their_turn(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_STEP", 1)
    assert limits.PRESENCE_STEP == 1
    world.member(ROOM, BEN, "join")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await world.remote.receive(THERE, {"push": [update(), update(BEN)]})
    assert turns == 2
    task.cancel()


async def test_the_task_looks_now_and_then(world: PresenceWorld) -> None:
    await world.remote.receive(THERE, {"push": [update()]})
    began_s = world.clock.seconds
    task = asyncio.create_task(world.remote.run())
    for _ in range(3):
        await asyncio.sleep(0)
    world.clock.seconds += limits.PRESENCE_REMOTE_S
    record = world.board.get(BOB)
    assert record is not None
    while record.shown.state != "offline":
        await asyncio.sleep(0)
    task.cancel()
    assert world.clock.seconds - began_s <= limits.PRESENCE_REMOTE_S + 1e4
    assert limits.PRESENCE_REMOTE_CHECK_S < limits.PRESENCE_REMOTE_S
    assert world.board.get(ANNA) is None
