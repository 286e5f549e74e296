"""Who joins after a user's erasure gets the user's messages redacted; who was there keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.ids import EventId, RoomId, UserId
from homeserver.engine.rooms.reader import BEGINNING
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage.accounts import accounts
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    HS1,
    HS2,
    World,
    draft,
    message,
    running,
)

CARLA, DORA = UserId("@carla:hs1"), UserId("@dora:hs1")
OPEN: dict[str, object] = {"history_visibility": "shared"}


@pytest.fixture
async def world(postgres_url: str) -> AsyncIterator[World]:
    async with running(postgres_url) as made:
        yield made


async def enter(world: World, room_id: RoomId, user_id: UserId, membership: str = "join") -> None:
    """A user comes or goes."""
    what = draft("m.room.member", {"membership": membership}, user_id, sender=user_id)
    if user_id == BOB:
        await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, what))
    else:
        await world.engine.writer.send(room_id, what)


async def erase(world: World, user_id: UserId, *, is_asked: bool = True) -> None:
    """The user's account ends."""
    async with world.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO accounts (user_id, is_guest, created_ms) VALUES ($1, false, 0)", user_id
        )
        await accounts.deactivate(connection, user_id, erase=is_asked)
    world.engine.rooms.erasures.changed(user_id)


async def read(world: World, room_id: RoomId, reader: UserId) -> list[object]:
    """The bodies of the messages that a user of ours sees; None for a redacted one."""
    room = await world.room(room_id)
    engine = world.engine
    placed = await engine.reader.page(room, start=BEGINNING, backwards=False, limit=1000)
    mine = (await engine.memberships.of(reader)).get(room_id)
    seen = await Visibility(engine.rooms, engine.reader, HS1).visible(room, reader, mine, placed)
    events = [one.entry for one in seen if one.entry.event.type == "m.room.message"]
    for entry in events:
        assert (b"secret" in entry.client) is ("body" in entry.event.content)
    return [entry.event.content.get("body") for entry in events]


async def given(world: World, event_id: EventId) -> object:
    """The body that another server gets."""
    (known,) = (await world.engine.rooms.events([event_id])).values()
    shown = await world.engine.events.visible_to_server(HS2, [known.event])
    return shown[event_id].content.get("body")


async def test_who_comes_after_an_erasure_sees_no_message_of_the_user(world: World) -> None:
    room_id = await world.create_room([draft("m.room.history_visibility", OPEN, "")])
    await enter(world, room_id, CARLA)
    sent = await world.engine.writer.send(room_id, message("secret", CARLA))
    assert await read(world, room_id, ALICE) == ["secret"]
    await erase(world, CARLA)
    await enter(world, room_id, CARLA, "leave")
    await enter(world, room_id, DORA)
    await enter(world, room_id, BOB)
    assert await read(world, room_id, ALICE) == ["secret"]
    assert await read(world, room_id, DORA) == [None]
    assert await given(world, sent.event_id) is None
    assert await world.bodies(room_id) == ["secret"], "what is stored stays"


async def test_who_was_there_before_keeps_it_after_coming_back(world: World) -> None:
    room_id = await world.create_room([draft("m.room.history_visibility", OPEN, "")])
    for user_id in (CARLA, DORA, BOB):
        await enter(world, room_id, user_id)
    sent = await world.engine.writer.send(room_id, message("secret", CARLA))
    await erase(world, CARLA)
    for membership in ("leave", "join"):
        for user_id in (DORA, BOB):
            await enter(world, room_id, user_id, membership)
    assert await read(world, room_id, DORA) == ["secret"]
    assert await given(world, sent.event_id) == "secret"


async def test_an_account_that_ended_without_erasure_is_read_by_all(world: World) -> None:
    room_id = await world.create_room([draft("m.room.history_visibility", OPEN, "")])
    await enter(world, room_id, CARLA)
    sent = await world.engine.writer.send(room_id, message("secret", CARLA))
    await erase(world, CARLA, is_asked=False)
    await enter(world, room_id, DORA)
    await enter(world, room_id, BOB)
    assert await read(world, room_id, DORA) == ["secret"]
    assert await given(world, sent.event_id) == "secret"
