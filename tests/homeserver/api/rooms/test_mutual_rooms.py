"""Rooms that two users share: pages, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import DeviceId, RoomId, UserId
from homeserver import limits
from homeserver.api.rooms.mutual_rooms import MutualRoomsApi
from homeserver.services.accounts.requester import Requester
from homeserver.services.rooms.user_directory.mutual_rooms import MutualRooms
from tests.homeserver.api.handlers import Reply, serving
from tests.homeserver.room_world import ALICE, BOB, CAROL, STRANGER, World, room_world
from tests.homeserver.sync_world import encoded

UNSTABLE = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"
STABLE = "/_matrix/client/v1/mutual_rooms"


@pytest.fixture
async def world(shared_database_url: str) -> AsyncIterator[World]:
    async with room_world(shared_database_url) as found:
        yield found


async def ask(world: World, path: str = STABLE, *, by: UserId = ALICE, **query: object) -> Reply:
    routes = MutualRoomsApi(MutualRooms(world.engine.memberships)).routes()
    async with serving(routes, Requester(by, DeviceId("DEV"), 1)) as caller:
        return await caller.call("GET", f"{path}?{encoded(query)}")


async def shared(world: World, count: int, *users: UserId) -> list[RoomId]:
    rooms = []
    for _ in range(count):
        room_id = await world.room(preset="public_chat")
        for user in users:
            assert (await world.join(user, room_id)).status == 200
        rooms.append(room_id)
    return sorted(rooms)


async def test_rooms_that_both_are_joined_to(world: World) -> None:
    rooms = await shared(world, 2, BOB, CAROL)
    await shared(world, 1, CAROL)
    left = await world.room(preset="public_chat", invite=[BOB])
    assert (await ask(world, user_id=BOB)).body == {"joined": rooms, "count": 2}
    assert (await ask(world, user_id=ALICE, by=BOB)).body == {"joined": rooms, "count": 2}
    await world.join(BOB, left)
    assert (await ask(world, user_id=BOB)).body["count"] == 3
    await world.in_room(BOB, "POST", left, "leave")
    assert (await ask(world, user_id=BOB)).body == {"joined": rooms, "count": 2}
    assert (await ask(world, UNSTABLE, user_id=BOB)).body == {"joined": rooms}


async def test_who_is_unknown_shares_no_room(world: World) -> None:
    await shared(world, 1)
    for user in (STRANGER, UserId("@nobody:here.example")):
        assert (await ask(world, user_id=user)).body == {"joined": [], "count": 0}


async def test_pages_follow_one_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MUTUAL_ROOMS", 2)
    rooms = await shared(world, 5, BOB)
    for path, start, following in ((STABLE, "from", "next_batch"), (UNSTABLE, "batch_token", "")):
        found: list[str] = []
        query: dict[str, Any] = {}
        following = following or "next_batch_token"
        for _ in range(3):
            body = (await ask(world, path, user_id=BOB, **query)).body
            found += body["joined"]
            assert len(body["joined"]) <= 2
            query = {start: body.get(following)}
        assert found == rooms
        assert query == {start: None}
    monkeypatch.setattr(limits, "MUTUAL_ROOMS", 5)
    assert "next_batch" not in (await ask(world, user_id=BOB)).body


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"user_id": ""}, "M_INVALID_PARAM"),
        ({"user_id": "bob"}, "M_INVALID_PARAM"),
        ({"user_id": "@bob"}, "M_INVALID_PARAM"),
        ({"user_id": ALICE}, "M_INVALID_PARAM"),
        ({"user_id": BOB, "from": "ä"}, "M_INVALID_PARAM"),
        ({"user_id": BOB, "from": "a"}, "M_INVALID_PARAM"),
        ({"user_id": BOB, "from": "QGJvYg"}, "M_INVALID_PARAM"),
        ({"user_id": BOB, "from": "_w"}, "M_INVALID_PARAM"),
        ({"user_id": BOB, "from": "A" * 5000}, "M_INVALID_PARAM"),
    ],
)
async def test_other_requests_are_refused(
    world: World, query: dict[str, Any], errcode: str
) -> None:
    assert (await ask(world, **query)).refusal == (400, errcode)
