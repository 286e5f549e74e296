"""Another server asks for the published directory: what it may ask, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.canonical_json import JsonObject
from federation.limits import (
    INTEGER_DIGITS_MAX,
    PUBLIC_ROOMS_REQUEST_BYTES_MAX,
    PUBLIC_ROOMS_REQUESTS_BURST,
    PUBLIC_ROOMS_REQUESTS_PER_S,
)
from federation.listing_ports import DirectoryQuestion
from federation.transport.requests.client import FederationError, ServerRequest
from tests.federation.transport.loopback import Peer, loopback

PATH = "/_matrix/federation/v1/publicRooms"


async def ask(
    peer: Peer, to: Peer, query: str = "", content: JsonObject | None = None
) -> JsonObject | int:
    """The answer, or the status of the refusal."""
    method = "GET" if content is None else "POST"
    try:
        return await peer.client.request(ServerRequest(to.name, method, PATH + query, content))
    except FederationError as error:
        return error.status or 0


def entry(room_id: str) -> JsonObject:
    """A room of a directory."""
    return {
        "room_id": room_id,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
    }


@pytest.mark.parametrize(
    ("query", "content", "question"),
    [
        ("", None, DirectoryQuestion()),
        ("?limit=5&since=t", None, DirectoryQuestion(5, "t")),
        ("?limit=0&since=", None, DirectoryQuestion()),
        ("?include_all_networks=true", None, DirectoryQuestion(all_networks=True)),
        ("?third_party_instance_id=irc", None, DirectoryQuestion(instance_id="irc")),
        ("?limit=" + "9" * INTEGER_DIGITS_MAX, None, DirectoryQuestion(int("9" * 16))),
        ("", {}, DirectoryQuestion()),
        ("", {"limit": 5, "since": "t"}, DirectoryQuestion(5, "t")),
        (
            "",
            {"filter": {"generic_search_term": "x", "room_types": [None, "m.space"]}},
            DirectoryQuestion(search_term="x", room_types=(None, "m.space")),
        ),
        (
            "",
            {"include_all_networks": True, "third_party_instance_id": "irc"},
            DirectoryQuestion(instance_id="irc", all_networks=True),
        ),
    ],
)
async def test_a_page_is_asked_for(
    query: str, content: JsonObject | None, question: DirectoryQuestion
) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.listings.page = {"chunk": [entry("!r:b.test")], "next_batch": "5"}
        assert await ask(a, b, query, content) == b.listings.page
        assert b.listings.asked == [(question,)]


@pytest.mark.off_spec("malformed by intent")
@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("?limit=-1", None),
        ("?limit=x", None),
        ("?limit=" + "9" * (INTEGER_DIGITS_MAX + 1), None),
        ("?include_all_networks=1", None),
        ("", {"limit": -1}),
        ("", {"limit": True}),
        ("", {"since": 5}),
        ("", {"filter": []}),
        ("", {"filter": {"generic_search_term": 5}}),
        ("", {"filter": {"room_types": "m.space"}}),
        ("", {"filter": {"room_types": [5]}}),
        ("", {"include_all_networks": "yes"}),
        ("", {"third_party_instance_id": {}}),
    ],
)
async def test_strange_questions_are_refused(query: str, content: Any) -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        assert await ask(a, b, query, content) == 400
        assert b.listings.asked == []


async def test_a_search_has_so_many_bytes() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        frame = len(b'{"since":""}')
        longest = "x" * (PUBLIC_ROOMS_REQUEST_BYTES_MAX - frame)
        assert isinstance(await ask(a, b, "", {"since": longest}), dict)
        assert await ask(a, b, "", {"since": f"{longest}x"}) == 413


async def test_rooms_that_deny_the_server_are_left_out() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        rooms = [b.rooms.create_room(b.user("alice")) for _ in range(2)]
        acl = {"allow": ["*"], "deny": ["a.test"]}
        b.rooms.send(rooms[0], b.user("alice"), "m.room.server_acl", acl, state_key="")
        b.listings.page = {"chunk": [entry(room_id) for room_id in rooms]}
        assert await ask(a, b) == {"chunk": [entry(rooms[1])]}


async def test_a_server_asks_so_often() -> None:
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        statuses = [await ask(a, b) for _ in range(int(PUBLIC_ROOMS_REQUESTS_BURST))]
        assert 429 not in statuses
        assert await ask(a, b) == 429
        assert isinstance(await ask(c, b, "", {}), dict), "another server isn't held up"
        net.clock.jump(1 / PUBLIC_ROOMS_REQUESTS_PER_S)
        a.backoffs.succeeded(b.name)
        assert isinstance(await ask(a, b, "", {}), dict)
