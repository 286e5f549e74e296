"""Endpoints of aliases and publication: what each asks of the service, and what it refuses."""

from typing import Any, cast

import pytest

from federation.events.ids import RoomId, ServerName
from homeserver.api.rooms.directory import DirectoryApi
from homeserver.services.rooms.directory import Directory, Target
from tests.homeserver.api.handlers import ALICE, NotedService, Reply, serving

ROOM = RoomId("!r:hs1")
ALIAS = "/directory/room/%23name:hs1"
LISTED = f"/directory/list/room/{ROOM}"


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self) -> None:
        target = Target(ROOM, [ServerName("hs1"), ServerName("hs2")])
        self.service = NotedService(resolve=target, aliases=["#name:hs1"], is_published=True)
        self.routes = DirectoryApi(cast(Directory, self.service)).routes()

    async def call(self, method: str, path: str, body: Any = None, *, token: bool = True) -> Reply:
        """Makes one call."""
        async with serving(self.routes) as caller:
            return await caller.call(method, path, body, token=token)


async def test_an_alias_is_made_and_removed() -> None:
    """By the requester."""
    endpoints = Endpoints()
    assert await endpoints.call("PUT", ALIAS, {"room_id": ROOM}) == (200, {})
    assert await endpoints.call("DELETE", ALIAS) == (200, {})
    assert endpoints.service.asked == [
        ("create", (ALICE.user_id, "#name:hs1", ROOM), {"by": None}),
        ("delete", (ALICE.user_id, "#name:hs1"), {"by": None}),
    ]


@pytest.mark.parametrize("token", [True, False])
async def test_anyone_may_ask_what_an_alias_names(token: bool) -> None:
    """With the servers to go through."""
    endpoints = Endpoints()
    reply = await endpoints.call("GET", ALIAS, token=token)
    assert reply == (200, {"room_id": ROOM, "servers": ["hs1", "hs2"]})
    assert endpoints.service.only.arguments == ("#name:hs1",)


async def test_a_rooms_aliases_are_for_those_who_may_see_it() -> None:
    """The service is asked for the requester."""
    endpoints = Endpoints()
    assert await endpoints.call("GET", f"/rooms/{ROOM}/aliases") == (
        200,
        {"aliases": ["#name:hs1"]},
    )
    assert endpoints.service.only == ("aliases", (ALICE.user_id, ROOM), {})


@pytest.mark.parametrize("token", [True, False])
@pytest.mark.parametrize(("published", "word"), [(True, "public"), (False, "private")])
async def test_the_publication_of_a_room_can_be_read(
    token: bool, published: bool, word: str
) -> None:
    """The service hears who asks, if anyone."""
    endpoints = Endpoints()
    endpoints.service.answers["is_published"] = published
    assert await endpoints.call("GET", LISTED, token=token) == (200, {"visibility": word})
    reader = ALICE.user_id if token else None
    assert endpoints.service.only.arguments == (reader, ROOM)


@pytest.mark.parametrize(
    ("body", "published"),
    [({}, True), ({"visibility": "public"}, True), ({"visibility": "private"}, False)],
)
async def test_a_room_is_published_or_hidden(body: Any, published: bool) -> None:
    """Public where nothing is said, as the specification has it."""
    endpoints = Endpoints()
    assert await endpoints.call("PUT", LISTED, body) == (200, {})
    assert endpoints.service.only == ("set_published", (ALICE.user_id, ROOM, published), {})


@pytest.mark.parametrize(
    ("method", "path", "body", "errcode"),
    [
        ("PUT", ALIAS, {}, "M_MISSING_PARAM"),
        ("PUT", ALIAS, {"room_id": 5}, "M_BAD_JSON"),
        ("PUT", ALIAS, {"room_id": "name"}, "M_INVALID_PARAM"),
        ("PUT", "/directory/room/name", {"room_id": ROOM}, "M_INVALID_PARAM"),
        ("GET", "/directory/room/name", None, "M_INVALID_PARAM"),
        ("DELETE", "/directory/room/name", None, "M_INVALID_PARAM"),
        ("GET", "/rooms/name/aliases", None, "M_INVALID_PARAM"),
        ("GET", "/directory/list/room/name", None, "M_INVALID_PARAM"),
        ("PUT", "/directory/list/room/name", {}, "M_INVALID_PARAM"),
        ("PUT", LISTED, {"visibility": "secret"}, "M_BAD_JSON"),
        ("PUT", LISTED, {"visibility": None}, "M_BAD_JSON"),
        ("PUT", LISTED, None, "M_NOT_JSON"),
    ],
)
async def test_a_strange_request_asks_for_nothing(
    method: str, path: str, body: Any, errcode: str
) -> None:
    """It is refused with its reason."""
    endpoints = Endpoints()
    assert (await endpoints.call(method, path, body)).refusal == (400, errcode)
    assert endpoints.service.asked == []
