"""Spaces of Synapse seen from Freehold, and the other way round, by users who aren't in them."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.interop.synapse.conftest import Enter, other
from tests.interop.synapse.person import Answer, JsonObject, Person, quote
from tests.interop.synapse.servers import SIDES, Side

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first of them may have to install Synapse
]

WHOLE = {"num_joined_members", "name", "topic", "join_rule", "room_type", "canonical_alias"}
"""What both servers have to say alike of a room, beside its children."""


@dataclass
class Community:
    """A space on the owner's server, with rooms in it by name."""

    owner: Person
    reader: Person
    rooms: dict[str, str]

    async def seen(self, **query: str) -> list[str]:
        """Return what the reader sees behind the way in."""
        return self.names(await hierarchy(self.reader, self.rooms["entrance"], **query))

    def names(self, rooms: list[JsonObject]) -> list[str]:
        """Return which of the rooms were listed, in order."""
        by_id = {room_id: name for name, room_id in self.rooms.items()}
        return [by_id[room["room_id"]] for room in rooms]


async def get(person: Person, path: str, **query: str) -> Answer:
    """Make a request as soon as the server allows it: Synapse's rate for this can't be set."""
    while True:
        answer = await person.call("GET", f"/../v1/{path}", None, **query)
        if answer.status != 429:
            return answer
        await asyncio.sleep(answer.body["retry_after_ms"] / 1000)


async def hierarchy(person: Person, room_id: str, **query: str) -> list[JsonObject]:
    """Return all pages."""
    rooms: list[JsonObject] = []
    while True:
        answer = await get(person, f"rooms/{quote(room_id)}/hierarchy", **query)
        assert answer.status == 200, answer
        page = answer.body
        rooms += page["rooms"]
        if "next_batch" not in page:
            return rooms
        query["from"] = page["next_batch"]


async def add(person: Person, parent: str, child: str, via: str, order: str, **more: Any) -> None:
    """Put a room into a space."""
    content = {"via": [via], "order": order, **more}
    await person.put_state(parent, "m.space.child", content, child)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=SIDES, ids="of {}".format)
async def community(request: pytest.FixtureRequest, enter: Enter) -> Community:
    """Return a space of one server, and a user of the other who is in one of its rooms."""
    side: Side = request.param
    owner, reader = await enter("owner", side), await enter("reader", other(side))
    space = {"creation_content": {"type": "m.space"}}
    root = await owner.create_room("10", name="Root", topic="All of us", **space)
    allow = [{"type": "m.room_membership", "room_id": root}]
    restricted = {
        "type": "m.room.join_rules",
        "content": {"join_rule": "restricted", "allow": allow},
    }
    knock = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    rooms = {
        "root": root,
        "below": await owner.create_room("12", name="Below", **space),
        "deep": await owner.create_room("12", name="Deep", topic="below below"),
        "public": await owner.create_room("10", name="Public"),
        "private": await owner.create_room("10", name="Private", preset="private_chat"),
        "restricted": await owner.create_room("10", name="R", initial_state=[restricted]),
        "knock": await owner.create_room("10", name="Knock", initial_state=[knock]),
        "reader's": await reader.create_room("12", name="Mine"),
        "reader's private": await reader.create_room("12", name="Own", preset="private_chat"),
    }
    # nothing in a request names a server to ask for the first room: it is one of the reader's
    rooms["entrance"] = await reader.create_room("12", **space)
    await add(reader, rooms["entrance"], root, owner.server, "a", suggested=True)
    for order, name in enumerate(list(rooms)[3:-1]):
        via = reader.server if name.startswith("reader") else owner.server
        await add(owner, root, rooms[name], via, f"{order}", suggested=name == "public")
    await add(owner, root, rooms["below"], owner.server, " ")
    await add(owner, rooms["below"], rooms["deep"], owner.server, "a")
    await add(owner, rooms["below"], root, owner.server, "b")
    return Community(owner, reader, rooms)


async def test_a_stranger_sees_what_they_may_enter_in_order(community: Community) -> None:
    """Rooms of both servers, a space below, a circle; neither private nor restricted rooms."""
    expected = ["root", "below", "deep", "public", "knock", "reader's", "reader's private"]
    assert await community.seen() == ["entrance", *expected]
    at_home = await hierarchy(community.owner, community.rooms["root"])
    expected = ["root", "below", "deep", "public", "private", "restricted", "knock", "reader's"]
    assert community.names(at_home) == expected


async def test_both_servers_say_the_same_of_a_room(community: Community) -> None:
    """Each field, and each child's event."""
    root = community.rooms["root"]
    seen = await hierarchy(community.reader, community.rooms["entrance"])
    at_home = {room["room_id"]: room for room in await hierarchy(community.owner, root)}
    compared = 0
    for room in seen:
        if community.names([room])[0].startswith(("reader", "entrance")):
            continue
        same = at_home[room["room_id"]]
        for name in WHOLE:
            assert room.get(name) == same.get(name), (name, room)
        children = [
            sorted(one["children_state"], key=lambda event: str(event["state_key"]))
            for one in (room, same)
        ]
        assert children[0] == children[1]
        assert room["children_state"] or room.get("room_type") != "m.space"
        compared += 1
    assert compared == 5


async def test_pages_depth_and_suggestions_are_the_reader_s(community: Community) -> None:
    assert await community.seen(limit="2") == await community.seen()
    assert await community.seen(max_depth="1") == ["entrance", "root"]
    assert "deep" not in await community.seen(max_depth="2")
    assert await community.seen(suggested_only="true") == ["entrance", "root", "public"]


async def test_a_private_room_is_hidden_from_the_other_server(community: Community) -> None:
    for name in ("private", "restricted"):
        path = f"rooms/{quote(community.rooms[name])}/hierarchy"
        assert (await get(community.reader, path)).status == 403


async def test_rooms_are_summarised_by_id_and_by_alias(community: Community) -> None:
    """Of what the other server says, and nothing of what it hides."""
    owner, reader = community.owner, community.reader
    alias = f"#{secrets.token_hex(4)}:{owner.server}"
    await owner.must("PUT", f"/directory/room/{quote(alias)}", {"room_id": community.rooms["deep"]})
    deep = await get(reader, f"room_summary/{quote(community.rooms['deep'])}", via=owner.server)
    assert deep.status == 200, deep
    assert deep.body["room_id"] == community.rooms["deep"]
    assert (deep.body["name"], deep.body["topic"]) == ("Deep", "below below")
    assert (deep.body["membership"], deep.body["join_rule"]) == ("leave", "public")
    named = await get(reader, f"room_summary/{quote(alias)}")
    assert named.body == deep.body
    for name in ("private", "restricted"):
        path = f"room_summary/{quote(community.rooms[name])}"
        assert (await get(reader, path, via=owner.server)).status in (403, 404)


async def test_a_member_of_the_space_still_sees_it_whole(community: Community) -> None:
    """Their server is in the space then, and learns of its rooms from the others."""
    reader, root = community.reader, community.rooms["root"]
    before = await community.seen()
    await reader.join(root, community.owner.server)
    await reader.until_in(root, "join")
    assert [name for name in await community.seen() if name != "restricted"] == before


async def test_the_directory_of_the_other_server_is_read_and_searched(community: Community) -> None:
    """In pages, by a term and by types of rooms; what isn't published isn't there."""
    owner, reader = community.owner, community.reader
    published = ["root", "below", "deep", "public"]
    for name in published:
        path = f"/directory/list/room/{quote(community.rooms[name])}"
        await owner.must("PUT", path, {"visibility": "public"})
    page = await reader.must("GET", "/publicRooms", None, server=owner.server)
    assert sorted(community.names(page["chunk"])) == sorted(published)
    at_home = await owner.must("GET", "/publicRooms")
    for name in WHOLE:
        values = [
            {room["room_id"]: room.get(name) for room in one["chunk"]} for one in (page, at_home)
        ]
        assert values[0] == values[1], name
    seen: list[str] = []
    query = {"server": owner.server, "limit": "2"}
    while True:
        part = await reader.must("GET", "/publicRooms", None, **query)
        seen += community.names(part["chunk"])
        if "next_batch" not in part:
            break
        query["since"] = part["next_batch"]
    assert sorted(seen) == sorted(published)
    for chosen, names in (
        ({"generic_search_term": "Deep"}, ["deep"]),
        ({"room_types": ["m.space"]}, ["root", "below"]),
        ({"room_types": [None]}, ["deep", "public"]),
    ):
        body = {"filter": chosen}
        found = await reader.must("POST", "/publicRooms", body, server=owner.server)
        assert sorted(community.names(found["chunk"])) == sorted(names)
