"""The event nearest to a time: what its reader may see, and no other."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from federation.errors import MatrixError
from federation.events.ids import DeviceId, RoomId, UserId
from federation.graph.building import EventDraft
from homeserver import limits
from homeserver.services.accounts.requester import Requester
from homeserver.services.timeline.access import ReadAccess
from homeserver.services.timeline.event_times import EventTimes, EventTimesForServers
from tests.homeserver.room_world import ALICE, BOB, CAROL, World
from tests.homeserver.sync_world import SyncWorld, sync_world


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


def times_of(world: World) -> EventTimes:
    engine, visibility = world.engine, world.timeline.visibility
    access = ReadAccess(engine.rooms, engine.reader, engine.memberships, visibility)
    return EventTimes(world.database, access, visibility, engine.reader, backfill=None)


async def nearest(
    world: World, user: UserId, room_id: RoomId, time_ms: int, *, backwards: bool
) -> str | None:
    """The event's ID; None for a 404."""
    requester = Requester(user, DeviceId("DEV"), 1)
    try:
        found = await times_of(world).nearest(requester, room_id, time_ms, backwards=backwards)
    except MatrixError as error:
        if (error.status, error.errcode) != (404, "M_NOT_FOUND"):
            raise
        return None
    return found.event_id


async def visible(syncs: SyncWorld, user: UserId, room_id: RoomId) -> list[tuple[int, str]]:
    """All events that a user can page through, the oldest first: times and IDs."""
    page = (await syncs.page(user, room_id, dir="f", limit=1000)).body["chunk"]
    return [(event["origin_server_ts"], event["event_id"]) for event in page]


async def test_it_is_what_paging_through_the_room_finds(syncs: SyncWorld) -> None:
    """Times are in no order, since servers' clocks aren't."""
    world, chance = syncs.world, random.Random(3)
    room_id = await world.room(preset="public_chat")
    rule = {"history_visibility": "joined"}
    await world.put_state(ALICE, room_id, "m.room.history_visibility", rule)
    base = 2_000_000_000_000
    for number in range(30):
        if number == 10:
            await syncs.join(room_id, BOB)
        if number == 20:
            await world.in_room(BOB, "POST", room_id, "leave")
        time_ms = base + chance.randrange(40)
        draft = EventDraft("m.x", ALICE, {"n": number}, origin_server_ts=time_ms)
        await world.engine.writer.send(room_id, draft)
    for user in (ALICE, BOB):
        known = await visible(syncs, user, room_id)
        for time_ms in (0, *range(base - 1, base + 41), 2**50):
            before = [one for one in known if one[0] <= time_ms]
            after = [one for one in known if one[0] >= time_ms]
            found = await nearest(world, user, room_id, time_ms, backwards=True)
            latest = max((time for time, _ in before), default=0)
            # of one time the last in the room's order
            last = [one for time, one in before if time == latest]
            assert found == (last[-1] if last else None)
            found = await nearest(world, user, room_id, time_ms, backwards=False)
            assert found == (min(after, key=lambda one: one[0])[1] if after else None)


async def test_strangers_find_nothing(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room()
    for stranger, room in ((CAROL, room_id), (ALICE, RoomId("!unknown:here.example"))):
        requester = Requester(stranger, DeviceId("DEV"), 1)
        with pytest.raises(MatrixError) as caught:
            await times_of(world).nearest(requester, room, 0, backwards=False)
        assert caught.value.status == 403


async def test_a_bounded_number_of_hidden_events_is_passed_over(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = syncs.world
    room_id = await world.room(preset="public_chat")
    rule = {"history_visibility": "joined"}
    await world.put_state(ALICE, room_id, "m.room.history_visibility", rule)
    for number in range(7):
        await world.engine.writer.send(
            room_id, EventDraft("m.x", ALICE, {"n": number}, origin_server_ts=number + 1)
        )
    await syncs.join(room_id, BOB)
    monkeypatch.setattr(limits, "EVENTS_BY_TIME_AT_ONCE", 2)
    for most, is_found in ((6, False), (10, True)):
        monkeypatch.setattr(limits, "EVENTS_BY_TIME", most)
        found = await nearest(world, BOB, room_id, 0, backwards=False)
        assert (found is not None) == is_found


async def test_other_servers_get_a_bounded_number(syncs: SyncWorld) -> None:
    world = syncs.world
    room_id = await world.room()
    times = EventTimesForServers(world.database)
    known = await visible(syncs, ALICE, room_id)
    found = await times.nearest(room_id, 0, backwards=False, limit=3)
    assert [one.time_ms for one in found] == sorted(time for time, _ in known)[:3]
    assert await times.nearest(room_id, 0, backwards=True, limit=3) == []


async def test_history_is_fetched_a_bounded_number_of_times(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await syncs.world.room()
    fetched = 0

    async def fill(*_values: object) -> bool:
        nonlocal fetched
        fetched += 1
        return True

    monkeypatch.setattr(EventTimes, "_fill", fill)
    known = await visible(syncs, ALICE, room_id)
    await nearest(syncs.world, ALICE, room_id, known[0][0] - 5, backwards=False)
    assert fetched == limits.GAPS_FILLED_BY_TIME
    await nearest(syncs.world, ALICE, room_id, known[0][0], backwards=False)
    assert fetched == limits.GAPS_FILLED_BY_TIME, "an event of just that time is enough"
