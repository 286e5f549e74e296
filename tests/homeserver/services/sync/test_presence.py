"""The presence in a sync: first and later answers, new members, filters, lost positions; and over
the real engine, that it wakes nobody."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest

from federation.events.ids import RoomId, ServerName, UserId
from homeserver import limits
from homeserver.rules.sync.filters import parse_filter
from tests.homeserver.device_world import ALICE, ANNA, BOB, THERE
from tests.homeserver.presence_world import PresenceWorld
from tests.homeserver.room_world import ALICE as ALICIA
from tests.homeserver.room_world import BOB as BOBBY
from tests.homeserver.sync_world import DEV, SyncWorld, sync_world

ROOM, OTHER = RoomId("!room:here.test"), RoomId("!other:here.test")


@pytest.fixture
def world() -> PresenceWorld:
    world = PresenceWorld()
    world.put(ROOM, ALICE, BOB)
    world.put(OTHER, ANNA)
    return world


async def says(world: PresenceWorld, user: UserId, presence: str) -> None:
    push = [{"user_id": user, "presence": presence, "last_active_ago": 0}]
    await world.remote.receive(THERE, {"push": push})


async def test_a_first_answer_has_those_who_are_there_a_later_one_who_changed(
    world: PresenceWorld,
) -> None:
    await world.sync(ALICE)
    await says(world, BOB, "online")
    await says(world, BOB, "offline")
    seen, since = await world.read(ALICE)
    assert set(seen) == {ALICE}
    assert await world.read(ALICE, since) == ({}, since)
    await says(world, BOB, "unavailable")
    for _ in range(2):
        seen, later = await world.read(ALICE, since)
        assert {user: one["presence"] for user, one in seen.items()} == {BOB: "unavailable"}
    await says(world, BOB, "offline")
    seen, _ = await world.read(ALICE, later)
    assert seen[BOB]["presence"] == "offline"


async def test_others_are_seen_by_those_alone_who_share_a_room(world: PresenceWorld) -> None:
    await says(world, BOB, "online")
    assert await world.read(ANNA) == ({}, world.token())
    _, since = await world.read(ANNA)
    world.member(ROOM, ANNA, "join")
    seen, since = await world.read(ANNA, since)
    assert set(seen) == {BOB}, "who is in a room that the reader came into"
    world.member(ROOM, ANNA, "leave")
    await says(world, BOB, "unavailable")
    assert (await world.read(ANNA, since))[0] == {}


async def test_a_user_who_came_into_a_room_is_seen_there(world: PresenceWorld) -> None:
    await world.sync(ANNA)
    _, since = await world.read(ALICE)
    world.member(ROOM, ANNA, "join")
    seen, since = await world.read(ALICE, since)
    assert set(seen) == {ANNA}
    world.member(ROOM, ANNA, "join")
    assert (await world.read(ALICE, since))[0] == {}, "a new profile is no new member"


async def test_who_went_offline_elsewhere_is_told_of_when_they_come_back(
    world: PresenceWorld,
) -> None:
    world.member(ROOM, ANNA, "join")
    await world.sync(ANNA)
    seen, since = await world.read(ALICE)
    assert seen[ANNA]["presence"] == "online"
    world.member(ROOM, ANNA, "leave")
    world.pass_time(limits.PRESENCE_OFFLINE_S)
    seen, since = await world.read(ALICE, since)
    assert seen == {}
    world.member(ROOM, ANNA, "join")
    seen, _ = await world.read(ALICE, since)
    assert seen[ANNA]["presence"] == "offline"


async def test_a_lost_reader_gets_all_that_is_known(world: PresenceWorld) -> None:
    await says(world, BOB, "online")
    await says(world, BOB, "offline")
    for lost in (world.token(boot=99), world.token(presence=world.board.count + 1)):
        seen, later = await world.read(ALICE, lost)
        assert seen[BOB]["presence"] == "offline"
        assert later == world.token()
    seen, _ = await world.read(ALICE, world.token(), is_far=True)
    assert seen[BOB]["presence"] == "offline"


async def test_ignored_users_are_left_out(world: PresenceWorld) -> None:
    await says(world, BOB, "online")
    assert (await world.read(ALICE, ignored=[BOB]))[0] == {}


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ({}, {ALICE, BOB}),
        ({"types": ["m.presence"]}, {ALICE, BOB}),
        ({"types": ["m.*"]}, {ALICE, BOB}),
        ({"types": []}, set()),
        ({"not_types": ["m.presence"]}, set()),
        ({"senders": [BOB]}, {BOB}),
        ({"not_senders": [BOB]}, {ALICE}),
        ({"limit": 0}, set()),
    ],
)
async def test_filters(world: PresenceWorld, wanted: Any, seen: set[UserId]) -> None:
    await world.sync(ALICE)
    await says(world, BOB, "online")
    found, since = await world.read(ALICE, wanted=parse_filter({"presence": wanted}))
    assert set(found) == seen
    assert since == world.token()


@pytest.mark.parametrize("is_filter", [True, False])
async def test_an_answer_has_so_many_users_and_the_next_one_the_others(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch, is_filter: bool
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_STEP", 2)
    if not is_filter:
        monkeypatch.setattr("homeserver.limits.PRESENCE_EVENTS_PER_SYNC", 2)
        assert limits.PRESENCE_EVENTS_PER_SYNC == 2
    wanted = parse_filter({"presence": {"limit": 2} if is_filter else {}})
    users = [UserId(f"@u{number}:there.test") for number in range(5)]
    world.put(ROOM, ALICE, *users)
    for user in users:
        await says(world, user, "online")
    since, found = None, []
    for _ in range(3):
        seen, since = await world.read(ALICE, since, wanted=wanted)
        found.append(list(seen))
    assert found == [users[:2], users[2:4], users[4:]]
    assert since == world.token()
    assert await world.read(ALICE, since, wanted=wanted) == ({}, since)


@pytest.mark.parametrize(
    ("mode", "seen", "told"),
    [("off", set(), []), ("local", {ALICE}, []), ("on", {ALICE, BOB}, [THERE])],
)
async def test_the_setting_says_who_is_told(
    mode: Literal["off", "local", "on"], seen: set[UserId], told: list[ServerName]
) -> None:
    world = PresenceWorld(mode=mode)
    world.put(ROOM, ALICE, ANNA, BOB)
    world.seen = [(ANNA, world.clock.now_ms())]
    await world.sync(ALICE)
    await world.own.set(ALICE, DEV, "online", "here")
    await says(world, BOB, "online")
    await world.own.on_profile_changed(ALICE)
    await world.own.tell_gone()
    found, _ = await world.read(ANNA)
    assert set(found) == seen
    world.member(ROOM, UserId("@new:elsewhere.test"), "join")
    world.member(ROOM, UserId("@new:elsewhere.test"), "leave")
    world.health.recover(THERE)
    assert [server for server, _ in await world.flush() if server == THERE] == told
    status = await world.view.status(ANNA, ALICE)
    assert status["presence"] == ("offline" if mode == "off" else "online")
    assert (len(world.board) == 0) is (mode == "off")


# Over the real engine


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


def senders(answer: dict[str, Any]) -> dict[str, str]:
    events = answer.get("presence", {"events": []})["events"]
    return {event["sender"]: event["content"]["presence"] for event in events}


async def test_a_sync_makes_its_user_online_for_others(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOBBY)
    assert senders(await syncs.get(set_presence="offline")) == {}
    first = await syncs.get()
    assert senders(first) == {ALICIA: "online"}
    answer = await syncs.get(BOBBY, set_presence="unavailable")
    assert senders(answer) == {ALICIA: "online", BOBBY: "unavailable"}
    assert senders(await syncs.get(since=first["next_batch"])) == {BOBBY: "unavailable"}


async def test_presence_wakes_nobody_and_goes_along_with_the_next_answer(
    syncs: SyncWorld,
) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOBBY)
    since = (await syncs.get())["next_batch"]
    waiting = asyncio.create_task(syncs.get(since=since, timeout=60_000))
    await _until_waiting(syncs)
    woken: list[object] = []
    [waiter] = syncs.fanout._waiting[ALICIA]
    wake = waiter.wake

    def noted() -> None:
        woken.append(None)
        wake()

    waiter.wake = noted  # type: ignore[method-assign]
    await syncs.presence.own.set(BOBBY, DEV, "online", "hello")
    for _ in range(10):
        await asyncio.sleep(0)
    assert woken == []
    assert not waiting.done()
    await syncs.say(BOBBY, room_id, "news")
    answer = await waiting
    assert senders(answer) == {BOBBY: "online"}
    assert room_id in answer["rooms"]["join"]


async def test_a_sync_that_times_out_has_the_changes(syncs: SyncWorld) -> None:
    room_id = await syncs.world.room(preset="public_chat")
    await syncs.join(room_id, BOBBY)
    since = (await syncs.get())["next_batch"]
    await syncs.presence.own.set(BOBBY, DEV, "online", "hello")
    began_s = time.monotonic()
    assert senders(await syncs.get(since=since, timeout=200)) == {BOBBY: "online"}
    assert time.monotonic() - began_s >= 0.2, "it is no reason to answer sooner"


async def _until_waiting(syncs: SyncWorld) -> None:
    while not syncs.fanout._waiting.get(ALICIA):
        await asyncio.sleep(0.001)
