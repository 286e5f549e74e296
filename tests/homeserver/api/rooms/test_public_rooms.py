"""The endpoint of the public room list: pages, tokens, searches, and other servers' lists."""

from typing import Any, cast

import pytest

from federation.events.ids import ServerName
from federation.listing_ports import DirectoryQuestion
from homeserver import limits
from homeserver.api.rooms.public_rooms import PublicRoomsApi
from homeserver.rules.rooms.public_rooms import Search
from homeserver.services.rooms.public_rooms import OWN, Networks, PublicRooms
from homeserver.services.rooms.summaries.remote_directories import RemoteDirectories
from tests.homeserver.api.handlers import GUEST, NotedService, Reply, serving

MOST = limits.PUBLISHED_ROOMS_PER_PAGE
PAGE = {"chunk": [], "total_room_count_estimate": 0}
LAST_TOKEN = "9" * limits.PUBLISHED_ROOMS_TOKEN_DIGITS


class Endpoints:
    """The endpoints over a noted service."""

    def __init__(self) -> None:
        self.service = NotedService(page=PAGE)
        self.others = NotedService(page=PAGE)
        self.routes = PublicRoomsApi(
            cast(PublicRooms, self.service),
            cast(RemoteDirectories, self.others),
            ServerName("hs1"),
        ).routes()

    async def get(self, query: str, *, token: bool = False) -> Reply:
        """Reads the list, without a token."""
        async with serving(self.routes) as caller:
            return await caller.call("GET", f"/publicRooms{query}", token=token)

    async def search(self, body: Any, query: str = "") -> Reply:
        """Searches it, as a guest."""
        async with serving(self.routes, GUEST) as caller:
            return await caller.call("POST", f"/publicRooms{query}", body)


def asked(start: int, limit: int, networks: Networks = OWN) -> dict[str, object]:
    """What the service is asked for beside the search."""
    return {"start": start, "limit": limit, "networks": networks}


@pytest.mark.parametrize(
    ("query", "start", "limit"),
    [
        ("", 0, MOST),
        ("?limit=5", 0, 5),
        ("?limit=0", 0, MOST),
        ("?since=20&limit=5", 20, 5),
        ("?since=", 0, MOST),
        (f"?since={LAST_TOKEN}", int(LAST_TOKEN), MOST),
        ("?server=hs1", 0, MOST),
        ("?server=", 0, MOST),
    ],
)
async def test_anyone_reads_the_list(query: str, start: int, limit: int) -> None:
    """Page by page; no limit, or zero, is the largest page."""
    endpoints = Endpoints()
    assert await endpoints.get(query) == (200, PAGE)
    assert endpoints.service.only == ("page", (Search(),), asked(start, limit))


@pytest.mark.parametrize(
    ("body", "search", "start", "limit"),
    [
        (None, Search(), 0, MOST),
        ({}, Search(), 0, MOST),
        ({"limit": 5, "since": "20"}, Search(), 20, 5),
        ({"limit": 0}, Search(), 0, MOST),
        ({"limit": MOST}, Search(), 0, MOST),
        ({"limit": MOST + 1}, Search(), 0, MOST),
        ({"filter": {"generic_search_term": "a"}}, Search(generic_search_term="a"), 0, MOST),
        (
            {"filter": {"room_types": [None, "m.space"]}},
            Search(room_types=(None, "m.space")),
            0,
            MOST,
        ),
        ({"filter": None, "include_all_networks": True}, Search(), 0, MOST),
    ],
)
async def test_a_search_says_what_it_wants(
    body: Any, search: Search, start: int, limit: int
) -> None:
    """Guests may search too; more than a page isn't given at once."""
    endpoints = Endpoints()
    assert await endpoints.search(body) == (200, PAGE)
    networks = Networks(None, bool((body or {}).get("include_all_networks")))
    assert endpoints.service.only == ("page", (search,), asked(start, limit, networks))


async def test_the_directory_of_a_network_is_asked_for_by_its_id() -> None:
    endpoints = Endpoints()
    await endpoints.search({"third_party_instance_id": "irc|net"})
    assert endpoints.service.only.options["networks"] == Networks("irc|net")


@pytest.mark.parametrize("since", ["x", "-1", "1.5", "\u0661", f"{LAST_TOKEN}0", " 1"])
async def test_a_token_of_another_kind_is_refused(since: str) -> None:
    """It isn't one of ours: digits, and not more than fit."""
    endpoints = Endpoints()
    assert (await endpoints.search({"since": since})).refusal == (400, "M_INVALID_PARAM")
    assert endpoints.service.asked == []


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"limit": -1}, "M_INVALID_PARAM"),
        ({"limit": "5"}, "M_BAD_JSON"),
        ({"since": 5}, "M_BAD_JSON"),
        ({"filter": {"room_types": "m.space"}}, "M_BAD_JSON"),
        ({"filter": []}, "M_BAD_JSON"),
        (b"{", "M_NOT_JSON"),
    ],
)
async def test_a_strange_search_is_refused(body: Any, errcode: str) -> None:
    """Before anything is looked for."""
    endpoints = Endpoints()
    assert (await endpoints.search(body)).refusal == (400, errcode)
    assert endpoints.service.asked == []


@pytest.mark.parametrize("limit", ["-1", "x", "1.5"])
async def test_a_strange_limit_in_the_query_is_refused(limit: str) -> None:
    """As in a body."""
    endpoints = Endpoints()
    assert (await endpoints.get(f"?limit={limit}")).refusal == (400, "M_INVALID_PARAM")
    assert endpoints.service.asked == []


async def test_the_list_of_another_server_is_asked_for() -> None:
    """By either endpoint, with all that was asked; our name, or none, is no other server's."""
    endpoints = Endpoints()
    for token in (False, True):
        query = "?server=hs2&limit=5&since=a%20token"
        assert await endpoints.get(query, token=token) == (200, PAGE)
        question = DirectoryQuestion(5, "a token")
        assert endpoints.others.asked[-1] == ("page", ("hs2", question), {"has_token": token})
    body = {
        "limit": MOST + 1,
        "filter": {"generic_search_term": "x", "room_types": [None]},
        "third_party_instance_id": "irc",
        "include_all_networks": True,
    }
    assert await endpoints.search(body, "?server=hs2") == (200, PAGE)
    question = DirectoryQuestion(MOST, None, "irc", True, "x", (None,))
    assert endpoints.others.asked[-1] == ("page", ("hs2", question), {"has_token": True})
    assert endpoints.service.asked == []
    for query in ("?server=", "?server=hs1"):
        await endpoints.get(query)
    assert len(endpoints.service.asked) == 2
    assert len(endpoints.others.asked) == 3


@pytest.mark.parametrize("server", ["a%20b", "%40user%3Ahs2", "hs2%2Fpath", "x" * 300])
async def test_a_server_has_a_name(server: str) -> None:
    endpoints = Endpoints()
    assert (await endpoints.get(f"?server={server}")).refusal == (400, "M_INVALID_PARAM")
    assert endpoints.others.asked == []
