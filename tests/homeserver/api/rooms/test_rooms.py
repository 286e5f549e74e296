"""Endpoints that create and upgrade rooms: what they ask of the services, what they refuse."""

from typing import Any, cast

import pytest

from homeserver.api.rooms.rooms import RoomsApi
from homeserver.rules.rooms.room_requests import RoomRequest
from homeserver.services.rooms.rooms import RoomCreation
from homeserver.services.rooms.upgrades import Upgrades
from tests.homeserver.api.handlers import ALICE, GUEST, NotedService, Reply, serving

ROOM = "!r:hs1"


class Endpoints:
    """The endpoints over noted services."""

    def __init__(self) -> None:
        self.service = NotedService(create=ROOM, upgrade="!new:hs1")
        self.routes = RoomsApi(
            cast(RoomCreation, self.service), cast(Upgrades, self.service)
        ).routes()

    async def call(self, path: str, body: Any = None, requester: Any = ALICE) -> Reply:
        """Makes one call."""
        async with serving(self.routes, requester) as caller:
            return await caller.call("POST", path, body)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (None, RoomRequest()),
        ({}, RoomRequest()),
        ({"name": "A", "preset": "private_chat"}, RoomRequest(name="A", preset="private_chat")),
    ],
)
async def test_a_room_is_created_as_asked_for(body: Any, wanted: RoomRequest) -> None:
    """Nothing at all is a room with all defaults."""
    endpoints = Endpoints()
    assert await endpoints.call("/createRoom", body) == (200, {"room_id": ROOM})
    assert endpoints.service.only == ("create", (ALICE.user_id, wanted), {"by": None})


@pytest.mark.parametrize(
    "body",
    [
        {"name": 5},
        {"preset": "strange"},
        {"initial_state": [{"type": "m.room.topic", "content": {"level": 1.5}}]},
        {"power_level_content_override": {"ban": 2**60}},
        b"[]",
        b"{",
    ],
)
async def test_a_room_that_cant_be_is_refused(body: Any) -> None:
    """Floats and large numbers have no place in an event."""
    endpoints = Endpoints()
    assert (await endpoints.call("/createRoom", body)).status == 400
    assert endpoints.service.asked == []


@pytest.mark.parametrize(
    ("body", "creators"),
    [
        ({"new_version": "12"}, ()),
        ({"new_version": "12", "additional_creators": None}, ()),
        ({"new_version": "12", "additional_creators": ["@bob:hs1"]}, ("@bob:hs1",)),
    ],
)
async def test_a_room_is_upgraded(body: Any, creators: tuple[str, ...]) -> None:
    """To the version that was named, with the creators that were."""
    endpoints = Endpoints()
    reply = await endpoints.call(f"/rooms/{ROOM}/upgrade", body)
    assert reply == (200, {"replacement_room": "!new:hs1"})
    assert endpoints.service.only == ("upgrade", (ALICE.user_id, ROOM, "12", creators), {})


@pytest.mark.parametrize(
    ("path", "body", "errcode"),
    [
        (f"/rooms/{ROOM}/upgrade", {}, "M_MISSING_PARAM"),
        (f"/rooms/{ROOM}/upgrade", {"new_version": 12}, "M_BAD_JSON"),
        (
            f"/rooms/{ROOM}/upgrade",
            {"new_version": "12", "additional_creators": "@b:x"},
            "M_BAD_JSON",
        ),
        (f"/rooms/{ROOM}/upgrade", None, "M_NOT_JSON"),
        ("/rooms/name/upgrade", {"new_version": "12"}, "M_INVALID_PARAM"),
    ],
)
async def test_a_strange_upgrade_is_refused(path: str, body: Any, errcode: str) -> None:
    """The room stays as it is."""
    endpoints = Endpoints()
    assert (await endpoints.call(path, body)).refusal == (400, errcode)
    assert endpoints.service.asked == []


async def test_guests_make_no_rooms() -> None:
    """Neither way."""
    endpoints = Endpoints()
    for path in ("/createRoom", f"/rooms/{ROOM}/upgrade"):
        reply = await endpoints.call(path, {"new_version": "12"}, GUEST)
        assert reply.refusal == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert endpoints.service.asked == []
