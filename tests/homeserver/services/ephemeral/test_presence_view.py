"""Who may ask for whose presence."""

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import RoomId, UserId
from tests.homeserver.device_world import ALICE, ANNA, BOB
from tests.homeserver.presence_world import DEVICE, PresenceWorld

ROOM = RoomId("!room:here.test")
NOBODY = UserId("@nobody:here.test")


@pytest.fixture
def world() -> PresenceWorld:
    world = PresenceWorld()
    world.put(ROOM, ALICE, BOB)
    return world


async def test_those_who_share_a_room_may_ask_and_everybody_for_themselves(
    world: PresenceWorld,
) -> None:
    assert await world.view.status(ALICE, BOB) == {"presence": "offline"}
    assert await world.view.status(ANNA, ANNA) == {"presence": "offline"}
    await world.own.set(ALICE, DEVICE, "online", "here")
    world.clock.seconds += 1
    expected = {
        "presence": "online",
        "currently_active": True,
        "last_active_ago": 1000,
        "status_msg": "here",
    }
    assert await world.view.status(ALICE, ALICE) == expected
    assert await world.view.status(BOB, ALICE) == expected


@pytest.mark.parametrize("other", [ALICE, BOB, NOBODY, UserId("not a user")])
async def test_others_get_the_same_answer_whoever_they_ask_for(
    world: PresenceWorld, other: UserId
) -> None:
    with pytest.raises(MatrixError) as refused:
        await world.view.status(ANNA, other)
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")


async def test_an_application_service_gets_an_event_and_the_users_rooms(
    world: PresenceWorld,
) -> None:
    assert world.view.of(ALICE) is None
    await world.sync(ALICE)
    found = world.view.of(ALICE)
    assert found is not None
    event, rooms = found
    assert orjson.loads(event)["sender"] == ALICE
    assert rooms == {ROOM}
