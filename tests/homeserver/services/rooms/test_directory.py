"""Room aliases, canonical aliases and publication."""

from urllib.parse import quote

import pytest

from federation.events.ids import RoomAlias, RoomId, ServerName
from homeserver import limits
from homeserver.services.rooms.directory import Target
from tests.homeserver.room_world import ALICE, BOB, CAROL, Reply, World, room_world

PUB = "#pub:here.example"
AFAR = RoomAlias("#x:there.example")


async def put(world: World, user: str, alias: str, room_id: str) -> Reply:
    """Names a room."""
    path = f"/directory/room/{quote(alias)}"
    return await world.call(user, "PUT", path, {"room_id": room_id})  # type: ignore[arg-type]


async def test_members_name_a_room_and_anybody_looks_it_up(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        assert (await put(world, BOB, PUB, room_id)).body == {}
        found = await world.call(CAROL, "GET", f"/directory/room/{quote(PUB)}")
        assert found.body == {"room_id": room_id, "servers": ["here.example"]}
        listed = await world.in_room(ALICE, "GET", room_id, "aliases")
        assert listed.body == {"aliases": [PUB]}
        taken = await put(world, ALICE, PUB, room_id)
        assert (taken.status, taken.errcode) == (409, "M_UNKNOWN")


async def test_aliases_that_can_not_be_are_refused(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        for alias in ("pub", "#pub", AFAR, "#:here.example", "#a b:here.example"):
            reply = await put(world, ALICE, alias, room_id)
            assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
        assert (await put(world, BOB, PUB, room_id)).errcode == "M_FORBIDDEN"
        assert (await put(world, ALICE, PUB, "!no:here.example")).errcode == "M_FORBIDDEN"
        assert (await put(world, ALICE, PUB, "odd")).errcode == "M_INVALID_PARAM"
        missing = await world.call(ALICE, "PUT", f"/directory/room/{quote(PUB)}", {})
        assert missing.errcode == "M_MISSING_PARAM"


async def test_a_room_has_a_limited_number_of_aliases(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ALIASES_PER_ROOM", 2)
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        replies = [await put(world, ALICE, f"#a{n}:here.example", room_id) for n in range(3)]
        assert [reply.errcode for reply in replies] == ["", "", "M_INVALID_PARAM"]


async def test_its_maker_or_a_moderator_removes_an_alias(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        await world.join(CAROL, room_id)
        path = f"/directory/room/{quote(PUB)}"
        for remover, status in ((CAROL, 403), (BOB, 200)):
            await put(world, BOB, PUB, room_id)
            assert (await world.call(remover, "DELETE", path)).status == status
        await put(world, BOB, PUB, room_id)
        assert (await world.call(ALICE, "DELETE", path)).status == 200
        gone = await world.call(ALICE, "DELETE", path)
        assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")
        assert (await world.call(ALICE, "GET", path)).status == 404
        remote = await world.call(ALICE, "DELETE", f"/directory/room/{quote(AFAR)}")
        assert remote.errcode == "M_INVALID_PARAM"


async def test_a_moderator_who_left_removes_no_alias(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        await put(world, BOB, PUB, room_id)
        assert (await world.in_room(ALICE, "POST", room_id, "leave")).status == 200
        path = f"/directory/room/{quote(PUB)}"
        assert (await world.call(ALICE, "DELETE", path)).status == 403
        assert (await world.call(BOB, "DELETE", path)).status == 200


async def test_a_removed_alias_leaves_the_canonical_alias_event(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(room_alias_name="pub", preset="public_chat")
        await world.join(BOB, room_id)
        await put(world, BOB, "#b:here.example", room_id)
        content = {"alias": PUB, "alt_aliases": ["#b:here.example"]}
        assert (
            await world.put_state(ALICE, room_id, "m.room.canonical_alias", content)
        ).status == 200
        await world.call(BOB, "DELETE", "/directory/room/%23b%3Ahere.example")
        assert (await world.get_state(ALICE, room_id, "m.room.canonical_alias")).body == content
        await world.call(ALICE, "DELETE", f"/directory/room/{quote(PUB)}")
        left = (await world.get_state(ALICE, room_id, "m.room.canonical_alias")).body
        assert left == {"alt_aliases": ["#b:here.example"]}


async def test_a_new_canonical_alias_must_name_the_room(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(room_alias_name="pub")
        other = await world.room(room_alias_name="other")
        world.remote.aliases[AFAR] = Target(RoomId(room_id), (ServerName("there.example"),))
        good = {"alias": PUB, "alt_aliases": [PUB, AFAR]}
        assert (await world.put_state(ALICE, room_id, "m.room.canonical_alias", good)).status == 200
        for bad, errcode in (
            ({"alias": "#other:here.example"}, "M_BAD_ALIAS"),
            ({"alias": "#none:here.example"}, "M_BAD_ALIAS"),
            ({"alt_aliases": ["#none:there.example"]}, "M_BAD_ALIAS"),
            ({"alias": "pub"}, "M_INVALID_PARAM"),
            ({"alias": 7}, "M_INVALID_PARAM"),
        ):
            reply = await world.put_state(ALICE, room_id, "m.room.canonical_alias", bad)
            assert (reply.status, reply.errcode) == (400, errcode)
        del world.remote.aliases[AFAR]
        kept = {"alt_aliases": [AFAR]}
        assert (await world.put_state(ALICE, room_id, "m.room.canonical_alias", kept)).status == 200
        assert (await world.put_state(ALICE, room_id, "m.room.canonical_alias", {})).status == 200
        outsider = await world.put_state(BOB, other, "m.room.canonical_alias", {})
        assert outsider.errcode == "M_FORBIDDEN"


async def test_aliases_are_listed_for_members_only(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        assert (await world.in_room(BOB, "GET", room_id, "aliases")).errcode == "M_FORBIDDEN"
        await world.join(BOB, room_id)
        assert (await world.in_room(BOB, "GET", room_id, "aliases")).status == 200
        await world.in_room(BOB, "POST", room_id, "leave")
        assert (await world.in_room(BOB, "GET", room_id, "aliases")).errcode == "M_FORBIDDEN"


async def test_moderators_publish_a_room(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        path = f"/directory/list/room/{room_id}"
        assert (await world.call(BOB, "GET", path)).body == {"visibility": "private"}
        assert (await world.call(BOB, "PUT", path, {})).errcode == "M_FORBIDDEN"
        assert (await world.call(ALICE, "PUT", path, {})).body == {}
        assert (await world.call(BOB, "GET", path)).body == {"visibility": "public"}
        assert (await world.call(ALICE, "PUT", path, {"visibility": "private"})).status == 200
        assert (await world.call(BOB, "GET", path)).body == {"visibility": "private"}
        odd = await world.call(ALICE, "PUT", path, {"visibility": "odd"})
        assert odd.errcode == "M_BAD_JSON"
        unknown = await world.call(ALICE, "GET", "/directory/list/room/!no:here.example")
        assert unknown.status == 404


async def test_a_private_room_is_as_unknown_to_others_as_one_that_is_not_there(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        private, path = await world.room(), "/directory/list/room/"
        answers = set()
        for room_id in (private, "!no:here.example"):
            read = await world.call(BOB, "GET", path + room_id)
            put = await world.call(BOB, "PUT", path + room_id, {"visibility": "public"})
            leave = await world.in_room(BOB, "POST", room_id, "leave")
            answers.add(str([read, put, leave]))
        assert len(answers) == 1
        assert (await world.call(ALICE, "GET", path + private)).body == {"visibility": "private"}
