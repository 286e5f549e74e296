"""Who may read a room, and from which place on."""

from collections.abc import AsyncIterator

import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, RoomId
from homeserver.engine.rooms.reader import BEGINNING, END
from homeserver.rules.sync.sync_tokens import Point
from homeserver.services.timeline.access import ReadAccess
from tests.homeserver.related_world import emptied_syncs
from tests.homeserver.room_world import ALICE, BOB
from tests.homeserver.sync_world import SyncWorld


@pytest.fixture
async def syncs(shared_database_url: str) -> AsyncIterator[SyncWorld]:
    async with emptied_syncs(shared_database_url) as world:
        yield world


def access_of(syncs: SyncWorld) -> ReadAccess:
    """What decides."""
    engine = syncs.world.engine
    visibility = syncs.world.timeline.visibility
    return ReadAccess(engine.rooms, engine.reader, engine.memberships, visibility)


async def test_members_and_former_ones_may_read(syncs: SyncWorld) -> None:
    """Others get 403, and 404 for an event."""
    access, room_id = access_of(syncs), await syncs.world.room(preset="public_chat")
    [said] = await syncs.say(ALICE, room_id, "said")
    for refused in (access.readable(BOB, room_id), access.readable(BOB, RoomId("!none:x"))):
        with pytest.raises(MatrixError) as error:
            await refused
        assert (error.value.status, error.value.errcode) == (403, "M_FORBIDDEN")
    assert await access.find(BOB, room_id, EventId(said)) is None
    with pytest.raises(MatrixError) as error:
        await access.event(BOB, room_id, EventId(said))
    assert (error.value.status, error.value.errcode) == (404, "M_NOT_FOUND")
    await syncs.join(room_id, BOB)
    room, user_room = await access.readable(BOB, room_id)
    assert (room.room_id, user_room and user_room.membership) == (room_id, "join")
    found = await access.event(BOB, room_id, EventId(said))
    assert found.seen.entry.event.event_id == said
    assert await access.find(BOB, room_id, EventId("$none")) is None
    assert await access.find(BOB, RoomId("!none:x"), EventId(said)) is None


async def test_anybody_may_read_what_is_open(syncs: SyncWorld) -> None:
    access, room_id = access_of(syncs), await syncs.world.room()
    await syncs.world.put_state(
        ALICE, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    assert (await access.readable(BOB, room_id))[1] is None


async def test_points_are_within_the_room(syncs: SyncWorld) -> None:
    access, room_id = access_of(syncs), await syncs.world.room()
    room, _ = await access.readable(ALICE, room_id)
    assert await access.point(room, Point((-1, 0))) == Point(BEGINNING)
    assert await access.point(room, Point((2**60, 0))) == Point(END)
    assert await access.point(room, Point((3, -1))) == Point((3, -1))
