"""Who shares a room with whom: read once, and then followed."""

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from tests.homeserver.device_world import ALICE, ANNA, BOB
from tests.homeserver.presence_world import PresenceWorld

ROOM, OTHER = RoomId("!room:here.test"), RoomId("!other:there.test")
BEN = UserId("@ben:there.test")


@pytest.fixture
def world() -> PresenceWorld:
    return PresenceWorld()


async def test_rooms_are_read_once_and_then_follow_the_log(world: PresenceWorld) -> None:
    world.put(ROOM, ALICE, BOB)
    await world.rooms.read([ALICE, BOB])
    await world.rooms.read([ALICE, BOB])
    assert world.loads == 1
    assert world.rooms.share({ROOM}, BOB)
    world.member(ROOM, BOB, "leave")
    assert not world.rooms.share({ROOM}, BOB)
    world.put(OTHER, ANNA)
    world.member(OTHER, ALICE, "join")
    world.member(OTHER, BOB, "join")
    world.member(OTHER, BOB, "join")
    assert (world.rooms.of(ALICE), world.rooms.of(BOB)) == ({ROOM, OTHER}, {OTHER})
    assert world.rooms.pairs == 3
    world.rooms.drop(ALICE)
    world.rooms.drop(ALICE)
    assert (world.rooms.pairs, world.rooms.of(ALICE)) == (1, set())


async def test_users_of_other_servers_who_share_no_room_stay_unknown(world: PresenceWorld) -> None:
    world.put(OTHER, BOB)
    await world.rooms.read([BOB, ALICE])
    assert not world.rooms.knows(BOB)
    assert world.rooms.knows(ALICE)
    assert await world.rooms.look_up(BOB) == set()


@pytest.mark.parametrize("is_in", [True, False])
async def test_a_change_during_the_read_counts_more(world: PresenceWorld, is_in: bool) -> None:
    world.put(ROOM, ALICE, BOB)
    world.put(OTHER, ALICE, *(() if is_in else (BOB,)))
    load = world.rooms._load

    async def changed_meanwhile(user_ids: object) -> object:
        found = await load([BOB])
        world.member(OTHER, BOB, "join" if is_in else "leave")
        return found

    world.rooms._load = changed_meanwhile  # type: ignore[assignment]
    await world.rooms.read([BOB])
    assert world.rooms.of(BOB) == ({ROOM, OTHER} if is_in else {ROOM})


async def test_members_who_were_in_a_room_before_the_first_of_ours_are_found(
    world: PresenceWorld,
) -> None:
    world.put(ROOM, ALICE, BOB)
    world.put(OTHER, BOB)
    await world.rooms.read([ALICE, ANNA, BOB])
    assert world.rooms.of(BOB) == {ROOM}
    world.member(OTHER, ANNA, "join")
    assert world.rooms.of(BOB) == {ROOM, OTHER}
    world.member(OTHER, ALICE, "join")
    world.member(OTHER, ANNA, "leave")
    assert world.rooms.of(BOB) == {ROOM, OTHER}, "Alice is there"
    world.member(OTHER, ALICE, "leave")
    assert world.rooms.of(BOB) == {ROOM}, "none of ours is"


async def test_beyond_the_bound_users_of_others_are_unknown_not_ours(
    world: PresenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.limits.PRESENCE_ROOMS_IN_ALL", 2)
    assert limits.PRESENCE_ROOMS_IN_ALL == 2
    world.put(ROOM, ALICE, BOB, BEN)
    await world.rooms.read([BOB])
    await world.rooms.read([BEN])
    assert world.rooms.knows(BEN)
    world.rooms.drop(BEN)
    await world.rooms.read([ALICE])
    await world.rooms.read([BEN])
    assert not world.rooms.knows(BEN)
    await world.rooms.read([ANNA])
    assert world.rooms.knows(ANNA)
