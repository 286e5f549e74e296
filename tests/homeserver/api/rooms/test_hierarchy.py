"""The endpoint of a space's hierarchy: its parameters, with their bounds."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.api.rooms.hierarchy import HierarchyApi
from homeserver.services.rooms.summaries.hierarchy import Hierarchy, HierarchyPage
from homeserver.services.rooms.summaries.walks import Walk
from tests.homeserver.api.handlers import GUEST, NotedService, Reply, serving

ROOM = RoomId("!space:hs1")
MOST, DEPTH = limits.HIERARCHY_ROOMS_PER_PAGE, limits.HIERARCHY_DEPTH
DEFAULT = limits.HIERARCHY_ROOMS_PER_PAGE_DEFAULT


EMPTY = HierarchyPage([])
SHOWN = {
    "room_id": ROOM,
    "num_joined_members": 1,
    "world_readable": False,
    "guest_can_join": False,
    "children_state": [],
}


class Endpoint:
    """The endpoint over a noted service."""

    def __init__(self, page: HierarchyPage = EMPTY) -> None:
        self.service = NotedService(first_page=page, next_page=page)
        self.routes = HierarchyApi(cast(Hierarchy, self.service)).routes()

    async def get(self, query: str = "", *, room: str = ROOM, guest: bool = False) -> Reply:
        """Reads a page."""
        more = (GUEST,) if guest else ()
        async with serving(self.routes, *more) as caller:
            return await caller.call("GET", f"/../v1/rooms/{quote(room)}/hierarchy{query}")


def walk(*, suggested_only: bool = False, max_depth: int = DEPTH) -> Walk:
    """What is asked for."""
    return Walk(UserId("@alice:hs1"), ROOM, suggested_only, max_depth)


@pytest.mark.parametrize(
    ("query", "asked", "limit"),
    [
        ("", walk(), DEFAULT),
        ("?from=", walk(), DEFAULT),
        ("?limit=1", walk(), 1),
        (f"?limit={MOST}", walk(), MOST),
        (f"?limit={MOST + 1}", walk(), MOST),
        ("?max_depth=0", walk(max_depth=0), DEFAULT),
        (f"?max_depth={DEPTH + 1}", walk(), DEFAULT),
        ("?suggested_only=true", walk(suggested_only=True), DEFAULT),
        ("?suggested_only=false", walk(), DEFAULT),
    ],
)
async def test_a_first_page_is_asked_for(query: str, asked: Walk, limit: int) -> None:
    endpoint = Endpoint()
    assert await endpoint.get(query) == (200, {"rooms": []})
    assert endpoint.service.only == ("first_page", (asked, limit), {})


async def test_a_further_page_is_asked_for_with_what_was_given() -> None:
    endpoint = Endpoint(HierarchyPage([SHOWN], "more"))
    for query, given in (
        ("", set()),
        ("&max_depth=2", {"max_depth"}),
        ("&suggested_only=false", {"suggested_only"}),
    ):
        endpoint.service.asked.clear()
        reply = await endpoint.get(f"?from=token{query}")
        assert reply == (200, {"rooms": [SHOWN], "next_batch": "more"})
        assert endpoint.service.only.name == "next_page"
        assert endpoint.service.only.arguments[0] == "token"
        assert endpoint.service.only.options == {"given": given}


@pytest.mark.parametrize(
    "query",
    ["?limit=0", "?limit=-1", "?limit=x", "?max_depth=-1", "?max_depth=1.5", "?suggested_only=yes"],
)
async def test_strange_parameters_are_refused(query: str) -> None:
    endpoint = Endpoint()
    assert (await endpoint.get(query)).refusal == (400, "M_INVALID_PARAM")
    assert endpoint.service.asked == []


async def test_a_room_has_an_id_and_guests_do_not_walk() -> None:
    endpoint = Endpoint()
    assert (await endpoint.get(room="#alias:hs1")).refusal == (400, "M_INVALID_PARAM")
    assert (await endpoint.get(guest=True)).refusal == (403, "M_GUEST_ACCESS_FORBIDDEN")
