"""Device lists of other servers' users: kept, updated, fetched again; and key queries for them."""

from typing import Any

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId
from federation.ports import UserDevices
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, StateChange, StateEntry
from homeserver.storage.database import Database
from tests.homeserver.device_world import (
    ALICE,
    BOB,
    ROOM,
    THERE,
    Clock,
    Log,
    Remote,
    Rooms,
    cross_signing_upload,
    device_keys,
    encryption_of,
)

B1, B2 = DeviceId("B1"), DeviceId("B2")


def bobs(stream_id: int, *devices: str) -> UserDevices:
    listed: list[JsonObject] = [
        {"device_id": device, "keys": device_keys(BOB, device), "device_display_name": "n"}
        for device in devices
    ]
    keys = cross_signing_upload(BOB)
    return UserDevices(BOB, stream_id, listed, keys["master_key"], keys["self_signing_key"])


def update(stream_id: int, *before: int, **changes: Any) -> JsonObject:
    return {
        "user_id": BOB,
        "device_id": B2,
        "stream_id": stream_id,
        "prev_id": list(before),
        "keys": device_keys(BOB, B2),
        **changes,
    }


class World:
    def __init__(self, database: Database) -> None:
        self.database, self.log, self.clock = database, Log(database), Clock()
        self.remote, self.rooms = Remote(), Rooms()
        made = encryption_of(database, self.log, self.rooms, remote=self.remote, clock=self.clock)
        self.lists, self.queries = made.remote_devices, made.key_queries

    async def devices(self) -> set[str]:
        answer = await self.queries.query(ALICE, {BOB: []}, timeout_s=1)
        return set(answer["device_keys"].get(BOB, {}))

    @property
    def fetches(self) -> int:
        return sum(kind == "devices" for kind, _ in self.remote.asked)

    @property
    def changes(self) -> int:
        return len(self.log.of_kind(DeviceListEntry))


@pytest.fixture
async def world(device_database: Database) -> World:
    made = World(device_database)
    made.rooms.put(ROOM, ALICE, BOB)
    made.remote.lists[BOB] = bobs(5, B1)
    return made


async def test_a_list_is_fetched_once_and_then_kept(world: World) -> None:
    answer = await world.queries.query(ALICE, {BOB: []}, timeout_s=1)
    assert answer["failures"] == {}
    kept = answer["device_keys"][BOB][B1]
    assert kept == {**device_keys(BOB, B1), "unsigned": {"device_display_name": "n"}}
    assert answer["master_keys"][BOB] == cross_signing_upload(BOB)["master_key"]
    assert answer["self_signing_keys"][BOB] == cross_signing_upload(BOB)["self_signing_key"]
    assert await world.devices() == {B1}
    assert world.fetches == 1
    assert world.changes == 0


async def test_updates_in_sequence_are_applied(world: World) -> None:
    await world.devices()
    await world.lists.update(update(6, 5))
    assert await world.devices() == {B1, B2}
    await world.lists.update(update(6, 5))
    assert world.changes == 1, "a repeat is nothing new"
    await world.lists.update(update(7, 6, deleted=True))
    assert await world.devices() == {B1}
    assert (world.fetches, world.changes) == (1, 2)


@pytest.mark.parametrize("failures", [1, 6])
async def test_a_clock_that_is_set_back_keeps_no_list_waiting(world: World, failures: int) -> None:
    """Seen to fail when a fetch waited until the time of day that it was postponed to."""
    await world.devices()
    del world.remote.lists[BOB]
    await world.lists.update(update(9, 8))
    for _ in range(failures):
        world.clock.seconds += await world.lists.work_once()
    await world.lists.work_once()
    world.remote.lists[BOB] = bobs(9, B2)
    world.clock.seconds -= 5 * 3_600
    assert await world.lists.work_once() == limits.RESYNC_RETRY_MS_MAX / 1000, "nothing is due"
    assert await world.devices() == {B2}


async def test_a_gap_makes_the_list_be_fetched_until_it_succeeds(world: World) -> None:
    await world.devices()
    del world.remote.lists[BOB]
    await world.lists.update(update(9, 8))
    wait_s = await world.lists.work_once()
    assert wait_s == limits.RESYNC_RETRY_MS_MIN / 1000
    world.clock.seconds += wait_s
    wait_s = await world.lists.work_once()
    assert wait_s == 2 * limits.RESYNC_RETRY_MS_MIN / 1000
    world.remote.lists[BOB] = bobs(9, B2)
    restarted = World(world.database)
    restarted.clock, restarted.log = world.clock, world.log
    restarted.rooms.put(ROOM, ALICE, BOB)
    restarted.remote.lists = world.remote.lists
    restarted.lists._clock = world.clock
    restarted.lists._committer = world.log
    world.clock.seconds += wait_s
    await restarted.lists.work_once()
    assert await restarted.devices() == {B2}
    assert restarted.fetches == 1
    assert await restarted.lists.work_once() == limits.RESYNC_RETRY_MS_MAX / 1000


async def test_while_out_of_date_and_unreachable_the_old_list_is_better_than_none(
    world: World,
) -> None:
    await world.devices()
    del world.remote.lists[BOB]
    await world.lists.update(update(9, 8))
    answer = await world.queries.query(ALICE, {BOB: []}, timeout_s=1)
    assert list(answer["failures"]) == [THERE]
    assert set(answer["device_keys"][BOB]) == {B1, B2}


async def test_an_update_during_a_fetch_repeats_it(world: World) -> None:
    ask = world.remote.devices

    async def slow(user_id: Any) -> UserDevices:
        answer = await ask(user_id)
        await world.lists.update(update(6, 5))
        return answer

    world.remote.devices = slow  # type: ignore[method-assign]
    await world.lists.fetch(BOB)
    world.remote.devices = ask  # type: ignore[method-assign]
    world.remote.lists[BOB] = bobs(6, B1, B2)
    await world.lists.work_once()
    assert await world.devices() == {B1, B2}
    assert world.fetches == 2


async def test_a_list_is_dropped_when_no_room_is_shared_any_more(world: World) -> None:
    await world.devices()
    await world.lists.work_once()
    world.rooms.put(ROOM, ALICE)
    leave = StateChange(("m.room.member", BOB), None, "leave")
    world.log.publish([StateEntry(ROOM, (leave,))])
    await world.lists.work_once()
    world.rooms.put(ROOM, ALICE, BOB)
    world.remote.lists[BOB] = bobs(20, B2)
    assert await world.devices() == {B2}


async def test_updates_that_come_before_the_join_that_they_follow_count(world: World) -> None:
    """A list that wasn't dropped after the user left is kept on by the user's return."""
    listed = world.remote.lists[BOB]
    world.remote.lists[BOB] = UserDevices(BOB, 5, listed.devices)
    await world.devices()
    world.rooms.put(ROOM, ALICE)
    await world.lists.update(update(6, 5))
    await world.lists.update_signing_keys({"user_id": BOB, **cross_signing_upload(BOB)})
    world.rooms.put(ROOM, ALICE, BOB)
    answer = await world.queries.query(ALICE, {BOB: []}, timeout_s=1)
    assert set(answer["device_keys"][BOB]) == {B1, B2}
    assert answer["master_keys"] == {BOB: cross_signing_upload(BOB)["master_key"]}
    assert world.fetches == 1


async def test_users_who_share_no_room_are_asked_for_each_time(world: World) -> None:
    world.rooms.put(ROOM, ALICE)
    world.remote.queries = {
        "device_keys": {BOB: {B1: device_keys(BOB, B1), B2: {"user_id": BOB}}},
        "master_keys": {},
        "self_signing_keys": {},
    }
    assert await world.devices() == {B1}
    assert await world.devices() == {B1}
    assert [kind for kind, _ in world.remote.asked] == ["query", "query"]
    await world.lists.update(update(9, 8))
    assert world.changes == 0


async def test_keys_that_arent_sound_are_not_kept(world: World) -> None:
    forged = {**device_keys(BOB, B1), "algorithms": ["changed"]}
    keys = cross_signing_upload(BOB)
    unsigned = {**keys["self_signing_key"], "signatures": {}}
    world.remote.lists[BOB] = UserDevices(
        BOB, 5, [{"device_id": B1, "keys": forged}], keys["master_key"], unsigned
    )
    answer = await world.queries.query(ALICE, {BOB: []}, timeout_s=1)
    assert answer["device_keys"] == {BOB: {}}
    assert answer["master_keys"] == {BOB: keys["master_key"]}
    assert answer["self_signing_keys"] == {}


async def test_new_signing_keys_replace_the_old_ones(world: World) -> None:
    listed = world.remote.lists[BOB]
    world.remote.lists[BOB] = UserDevices(BOB, 5, listed.devices)
    await world.devices()
    await world.lists.update_signing_keys({"user_id": BOB, **cross_signing_upload(BOB)})
    answer = await world.queries.query(ALICE, {BOB: []}, timeout_s=1)
    assert answer["master_keys"] == {BOB: cross_signing_upload(BOB)["master_key"]}
    assert answer["self_signing_keys"] == {BOB: cross_signing_upload(BOB)["self_signing_key"]}
    assert world.changes == 1


async def test_a_list_that_could_not_be_fetched_is_news_once_it_can(world: World) -> None:
    listed = world.remote.lists.pop(BOB)
    answer = await world.queries.query(ALICE, {BOB: []}, timeout_s=1)
    assert list(answer["failures"]) == [THERE]
    assert answer["device_keys"] == {}
    world.remote.lists[BOB] = listed
    assert await world.lists.work_once() == limits.RESYNC_RETRY_MS_MIN / 1000
    assert world.changes == 0
    world.clock.seconds += limits.RESYNC_RETRY_MS_MIN / 1000
    await world.lists.work_once()
    assert world.changes == 1
    assert await world.devices() == {B1}
    assert world.fetches == 2


async def test_kept_devices_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMOTE_DEVICES_PER_USER", 2)
    world.remote.lists[BOB] = bobs(5, "A", "B1", "C")
    assert await world.devices() == {"A", B1}
    await world.lists.update(update(6, 5, device_id=B1, keys=device_keys(BOB, B1)))
    assert await world.devices() == {"A", B1}
    assert world.fetches == 1
    await world.lists.update(update(7, 6))
    world.remote.lists[BOB] = bobs(7, "A", B2)
    assert await world.devices() == {"A", B2}, "one too many: the list is fetched anew"


async def test_so_many_updates_are_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes again after those is taken for a new one, which does no harm."""
    monkeypatch.setattr(limits, "DEVICE_LIST_UPDATES_SEEN", 3)
    await world.devices()
    for stream_id in (6, 7, 8):
        await world.lists.update(update(stream_id, stream_id - 1))
    for stream_id, changes in ((6, 3), (8, 3), (5, 4)):
        await world.lists.update(update(stream_id, stream_id - 1))
        assert world.changes == changes


@pytest.mark.parametrize("more", [0, 1])
async def test_a_devices_name_is_cut(world: World, more: int) -> None:
    name = "n" * (limits.DEVICE_NAME_REMOTE_BYTES + more)
    await world.devices()
    await world.lists.update(update(6, 5, device_display_name=name))
    answer = await world.queries.query(ALICE, {BOB: []}, timeout_s=1)
    shown = answer["device_keys"][BOB][B2]["unsigned"]["device_display_name"]
    assert shown == "n" * limits.DEVICE_NAME_REMOTE_BYTES
