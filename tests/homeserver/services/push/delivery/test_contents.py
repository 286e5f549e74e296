"""What a push says of an event, over real rooms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, RoomId, UserId
from homeserver.engine.entries import MembershipEntry, Unit
from homeserver.rules.push.gateway_messages import EventNames
from homeserver.services.push.delivery.contents import PushContents
from tests.homeserver.room_world import ALICE, BOB, CAROL, STRANGER, World, room_world


@pytest.fixture
async def world(shared_database_url: str) -> AsyncIterator[World]:
    async with room_world(shared_database_url) as made:
        yield made


def contents_of(world: World) -> PushContents:
    return PushContents(world.engine.rooms, world.engine.memberships, world.timeline.history.event)


async def shared_room(world: World, **body: Any) -> RoomId:
    room_id = await world.room(preset="public_chat", **body)
    assert (await world.join(BOB, room_id)).status == 200
    return room_id


async def said(world: World, room_id: RoomId, body: str = "hello") -> EventId:
    reply = await world.send(ALICE, room_id, {"msgtype": "m.text", "body": body}, body)
    return EventId(reply.body["event_id"])


async def event(world: World, user_id: UserId, room_id: RoomId, event_id: EventId) -> Any:
    return await contents_of(world).event(user_id, room_id, event_id)


async def test_an_event_is_as_its_reader_sees_it(world: World) -> None:
    room_id = await shared_room(world)
    event_id = await said(world, room_id)
    found = await event(world, BOB, room_id, event_id)
    assert (found["event_id"], found["room_id"], found["sender"]) == (event_id, room_id, ALICE)
    assert found["content"]["body"] == "hello"


async def test_what_a_user_may_not_see_is_not_told(world: World) -> None:
    room_id = await shared_room(world)
    assert (await world.in_room(BOB, "POST", room_id, "leave")).status == 200
    event_id = await said(world, room_id)
    visibility = {"history_visibility": "joined"}
    await world.put_state(ALICE, room_id, "m.room.history_visibility", visibility)
    hidden = await said(world, room_id, "hidden")
    assert await event(world, BOB, room_id, hidden) is None
    assert await event(world, ALICE, room_id, event_id) is not None
    assert await event(world, BOB, room_id, EventId("$nothing")) is None
    assert await event(world, BOB, RoomId("!nowhere:here.example"), event_id) is None


async def test_a_redacted_event_is_not_told(world: World) -> None:
    room_id = await shared_room(world)
    event_id = await said(world, room_id)
    assert (await world.in_room(ALICE, "PUT", room_id, f"redact/{event_id}/r1")).status == 200
    assert await event(world, BOB, room_id, event_id) is None


async def test_other_errors_are_raised(world: World) -> None:
    async def fails(*_asked: object) -> bytes:
        raise MatrixError(503, "M_UNKNOWN", "later")

    contents = PushContents(world.engine.rooms, world.engine.memberships, fails)
    room_id = await shared_room(world)
    with pytest.raises(MatrixError, match="later"):
        await contents.event(BOB, room_id, EventId("$e"))


async def test_names_are_those_of_now(world: World) -> None:
    room_id = await shared_room(world, room_alias_name="room")
    found = await event(world, BOB, room_id, await said(world, room_id))

    async def names(event: Any) -> EventNames:
        return await contents_of(world).names(BOB, event)

    assert await names(found) == EventNames("Alice", "", "#room:here.example")
    await world.put_state(ALICE, room_id, "m.room.name", {"name": "Wonderland"})
    assert await names(found) == EventNames("Alice", "Wonderland", "#room:here.example")
    await world.put_state(ALICE, room_id, "m.room.name", {"name": ["of another type"]})
    assert (await names(found)).room_name == ""
    assert await names({**found, "room_id": "!nowhere:here.example"}) == EventNames()


STRIPPED = [
    {"type": "m.room.name", "state_key": "", "sender": STRANGER, "content": {"name": "Far"}},
    {"type": "m.room.member", "state_key": STRANGER, "sender": STRANGER, "content": {}},
    {"type": "m.room.topic", "state_key": "", "sender": STRANGER, "content": []},
]


async def test_an_invite_to_a_room_elsewhere_is_told_while_it_is_open(world: World) -> None:
    room_id, event_id = RoomId("!far:there.example"), EventId("$invite")
    invite = MembershipEntry(
        user_id=BOB,
        room_id=room_id,
        membership="invite",
        event_id=event_id,
        sender=STRANGER,
        stripped=orjson.dumps(STRIPPED),
        version="11",
    )
    await world.committer.submit(Unit([invite]))
    found = await event(world, BOB, room_id, event_id)
    assert found == {
        "content": {"membership": "invite"},
        "event_id": event_id,
        "room_id": room_id,
        "sender": STRANGER,
        "state_key": BOB,
        "type": "m.room.member",
    }
    assert await contents_of(world).names(BOB, found) == EventNames("", "Far", "")
    assert await contents_of(world).names(CAROL, found) == EventNames()
    assert await event(world, CAROL, room_id, event_id) is None
    assert await event(world, BOB, room_id, EventId("$other")) is None
    await world.remote.set_ours(room_id, BOB, "leave")
    assert await event(world, BOB, room_id, event_id) is None
