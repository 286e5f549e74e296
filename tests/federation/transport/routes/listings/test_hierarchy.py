"""Another server asks for a space: who may, and how often."""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from federation.limits import HIERARCHY_REQUESTS_BURST, HIERARCHY_REQUESTS_PER_S
from federation.listing_ports import ShownSpace
from federation.transport.requests.client import FederationError, build_target
from tests.federation.transport.loopback import Peer, loopback

CHILD, HIDDEN = RoomId("!child:b.test"), RoomId("!hidden:b.test")


def summary(room_id: RoomId) -> JsonObject:
    """A room as it is shown."""
    return {
        "room_id": room_id,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "children_state": [],
    }


async def ask(peer: Peer, to: Peer, room_id: str, query: str = "") -> JsonObject | int:
    """The answer, or the status of the refusal."""
    target = build_target("/_matrix/federation/v1/hierarchy", room_id)
    try:
        return await peer.client.get(to.name, target + query)
    except FederationError as error:
        return error.status or 0


def show(peer: Peer, room_id: RoomId) -> None:
    """Has a peer show a space with two children."""
    children = {CHILD: summary(CHILD)}
    peer.listings.spaces[room_id] = ShownSpace(summary(room_id), children, [HIDDEN])


async def test_a_space_is_shown_with_its_children() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        room_id = RoomId("!space:b.test")
        show(b, room_id)
        assert await ask(a, b, room_id) == {
            "room": summary(room_id),
            "children": [summary(CHILD)],
            "inaccessible_children": [HIDDEN],
        }
        for query, suggested_only in (
            ("?suggested_only=true", True),
            ("?suggested_only=false", False),
        ):
            await ask(a, b, room_id, query)
            assert b.listings.asked[-1] == ("a.test", room_id, suggested_only)
        assert await ask(a, b, "!other:b.test") == 404


async def test_a_server_that_the_room_denies_is_shown_nothing_of_it() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        rooms = [b.rooms.create_room(b.user("alice")) for _ in range(2)]
        shown = {room_id: summary(room_id) for room_id in rooms}
        for room_id in rooms:
            b.listings.spaces[room_id] = ShownSpace(summary(room_id), shown, [])
        acl = {"allow": ["*"], "deny": ["a.test"]}
        b.rooms.send(rooms[0], b.user("alice"), "m.room.server_acl", acl, state_key="")
        assert await ask(a, b, rooms[0]) == 404
        answer = await ask(a, b, rooms[1])
        assert isinstance(answer, dict)
        assert [child["room_id"] for child in answer["children"]] == [rooms[1]]
        assert answer["inaccessible_children"] == [rooms[0]]


async def test_strange_questions_are_refused() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        assert await ask(a, b, "space") == 400
        assert await ask(a, b, "!space:b.test", "?suggested_only=1") == 400
        assert b.listings.asked == []


async def test_a_server_asks_so_often() -> None:
    async with loopback() as net:
        a, b, c = [await net.peer(f"{name}.test") for name in "abc"]
        room_id = RoomId("!space:b.test")
        show(b, room_id)
        statuses = [await ask(a, b, room_id) for _ in range(int(HIERARCHY_REQUESTS_BURST))]
        assert 429 not in statuses
        assert await ask(a, b, room_id) == 429
        assert isinstance(await ask(c, b, room_id), dict), "another server isn't held up"
        net.clock.jump(1 / HIERARCHY_REQUESTS_PER_S)
        a.backoffs.succeeded(b.name)
        assert isinstance(await ask(a, b, room_id), dict)
