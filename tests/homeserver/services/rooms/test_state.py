"""Room state and members: who sees what, and as of when."""

from typing import Any

import pytest

from federation.events.ids import UserId
from homeserver import limits
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.sync.sync_tokens import SyncToken, format_sync, just_after
from homeserver.services.rooms.state import MemberFilter
from tests.homeserver.room_world import ALICE, BOB, CAROL, DAVE, World, room_world


def users(reply: Any) -> set[str]:
    """The members in a reply of /members."""
    return {event["state_key"] for event in reply.body["chunk"]}


async def members(world: World, user: UserId, room_id: str, query: str = "") -> set[str]:
    """The members that a user sees."""
    return users(await world.in_room(user, "GET", room_id, "members", query=query))


async def test_state_is_read_as_content_or_event(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(name="N")
        sent = await world.put_state(ALICE, room_id, "x.y", {"a": 1}, "k/ä")
        assert (await world.get_state(ALICE, room_id, "x.y", "k/ä")).body == {"a": 1}
        path = "state/m.room.name"
        for rest in (path, path + "/"):
            assert (await world.in_room(ALICE, "GET", room_id, rest)).body == {"name": "N"}
        event = await world.in_room(
            ALICE, "GET", room_id, "state/x.y/k%2F%C3%A4", query="format=event"
        )
        assert event.body["event_id"] == sent.body["event_id"]
        assert (event.body["sender"], event.body["state_key"]) == (ALICE, "k/ä")
        assert (event.body["room_id"], event.body["content"]) == (room_id, {"a": 1})
        odd = await world.in_room(ALICE, "GET", room_id, path, query="format=pdu")
        assert odd.errcode == "M_INVALID_PARAM"


async def test_unknown_state_is_not_found_and_unknown_rooms_are_forbidden(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(invite=[BOB])
        missing = await world.get_state(ALICE, room_id, "x.y")
        assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
        for user, where in ((ALICE, "!no:here.example"), (BOB, room_id), (CAROL, room_id)):
            for rest in ("state", "state/m.room.create", "members", "joined_members"):
                reply = await world.in_room(user, "GET", where, rest)
                assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


async def test_state_is_set_over_and_over(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        first = await world.put_state(ALICE, room_id, "m.room.topic", {"topic": "1"})
        again = await world.put_state(ALICE, room_id, "m.room.topic", {"topic": "1"})
        other = await world.put_state(ALICE, room_id, "m.room.topic", {"topic": "2"})
        assert first == again != other
        assert (await world.get_state(ALICE, room_id, "m.room.topic")).body == {"topic": "2"}


async def test_only_who_may_set_state_sets_it(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        for user, where in ((BOB, room_id), (CAROL, room_id), (ALICE, "!no:here.example")):
            reply = await world.put_state(user, where, "m.room.topic", {"topic": "1"})
            assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
        own = await world.put_state(BOB, room_id, "x.y", {}, BOB)
        assert own.status == 403
        broken = await world.put_state(ALICE, room_id, "m.room.topic", {"f": 0.5})
        assert broken.errcode == "M_BAD_JSON"


@pytest.mark.parametrize("version", ["1", "9", "10", "11", "12"])
async def test_what_nobody_could_send_is_400_and_what_somebody_may_not_is_403(
    shared_database_url: str, version: str
) -> None:
    """A client can tell a request that is wrong from one that lacks power."""
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat", room_version=version)
        await world.join(BOB, room_id)
        levels = (await world.get_state(ALICE, room_id, "m.room.power_levels")).body
        never_right = [
            ("m.room.create", {"room_version": version, "creator": ALICE, "type": "x"}),
            ("m.room.power_levels", {**levels, "users": []}),
            ("m.room.power_levels", {**levels, "users": {BOB: "x"}}),
        ]
        if version in ("10", "11", "12"):
            odd = {**levels, "ban": "50"}
            never_right.append(("m.room.power_levels", odd))
        if version == "12":
            listed = {**levels, "users": {ALICE: 100}}
            never_right.append(("m.room.power_levels", listed))
        for kind, content in never_right:
            reply = await world.put_state(ALICE, room_id, kind, content)
            # an event that its format doesn't allow isn't even built
            code = "M_BAD_JSON" if (kind, version) == ("m.room.create", "12") else "M_INVALID_PARAM"
            assert (reply.status, reply.errcode) == (400, code), (kind, content)
        changed = {**levels, "ban": 60}
        assert (await world.put_state(BOB, room_id, "m.room.power_levels", changed)).status == 403


async def test_who_left_sees_the_state_of_then(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat", name="before")
        await world.join(BOB, room_id)
        await world.in_room(BOB, "POST", room_id, "leave")
        await world.put_state(ALICE, room_id, "m.room.name", {"name": "after"})
        await world.join(CAROL, room_id)
        assert (await world.get_state(BOB, room_id, "m.room.name")).body == {"name": "before"}
        assert await members(world, BOB, room_id) == {ALICE, BOB}
        everything = (await world.in_room(BOB, "GET", room_id, "state")).body
        own = [event for event in everything if event.get("state_key") == BOB]
        assert own[0]["content"]["membership"] == "leave"
        assert (await world.in_room(BOB, "GET", room_id, "joined_members")).status == 403


async def test_who_was_kicked_then_banned_sees_the_state_of_the_kick(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat", name="before")
        await world.join(BOB, room_id)
        await world.in_room(ALICE, "POST", room_id, "kick", {"user_id": BOB})
        await world.put_state(ALICE, room_id, "m.room.name", {"name": "after"})
        await world.in_room(ALICE, "POST", room_id, "ban", {"user_id": BOB})
        assert (await world.get_state(BOB, room_id, "m.room.name")).body == {"name": "before"}


@pytest.mark.parametrize(
    ("steps", "is_noted", "status"), [(1, True, 200), (1, False, 403), (2, False, 200)]
)
async def test_the_end_of_a_stay_that_was_not_noted_is_looked_for_a_few_steps_back(
    shared_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    is_noted: bool,
    status: int,
) -> None:
    """It isn't where a join brought the membership with the room's state."""

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(limits, "MEMBERSHIP_STEPS", steps)
    if not is_noted:
        monkeypatch.setattr(Rooms, "end_of_stay", nothing)
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        await world.in_room(BOB, "POST", room_id, "leave")
        await world.in_room(ALICE, "POST", room_id, "ban", {"user_id": BOB})
        assert (await world.in_room(BOB, "GET", room_id, "state")).status == status


async def test_who_only_refused_an_invite_sees_nothing(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(invite=[BOB], name="secret")
        assert (await world.in_room(BOB, "POST", room_id, "leave")).status == 200
        assert (await world.in_room(BOB, "GET", room_id, "state")).status == 403
        await world.in_room(ALICE, "POST", room_id, "ban", {"user_id": CAROL})
        assert (await world.in_room(CAROL, "GET", room_id, "state")).status == 403


async def test_anybody_reads_a_world_readable_room(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(name="N")
        readable = {"history_visibility": "world_readable"}
        await world.put_state(ALICE, room_id, "m.room.history_visibility", readable)
        assert (await world.get_state(CAROL, room_id, "m.room.name")).body == {"name": "N"}
        assert await members(world, CAROL, room_id) == {ALICE}
        assert (await world.in_room(CAROL, "GET", room_id, "aliases")).body == {"aliases": []}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {ALICE, BOB, CAROL, DAVE}),
        ("membership=join", {ALICE, BOB}),
        ("not_membership=join", {CAROL, DAVE}),
        ("membership=join&not_membership=leave", {ALICE, BOB, CAROL}),
        ("membership=invite&not_membership=join", {CAROL, DAVE}),
        ("membership=ban", set()),
    ],
)
async def test_members_are_filtered_by_membership(
    shared_database_url: str, query: str, expected: set[str]
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat", invite=[CAROL])
        await world.join(BOB, room_id)
        await world.join(DAVE, room_id)
        await world.in_room(DAVE, "POST", room_id, "leave")
        assert await members(world, ALICE, room_id, query) == expected


async def test_an_unknown_membership_or_token_is_invalid(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        for query in ("membership=friend", "not_membership=", "at=odd", "at=s1.x"):
            reply = await world.in_room(ALICE, "GET", room_id, "members", query=query)
            assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


async def test_members_at_a_token_are_those_of_then(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        room = await world.engine.rooms.get(room_id)
        assert room is not None
        position = world.committer.position
        point = just_after(await world.reader.order_at(room, position))
        await world.join(CAROL, room_id)
        history = world.committer.history
        token = format_sync(SyncToken(history.id, ((1, position),), 0))
        assert await members(world, ALICE, room_id, f"at={token}") == {ALICE, BOB}
        assert await members(world, ALICE, room_id, f"at={history.format_point(point)}") == {
            ALICE,
            BOB,
        }
        assert await members(world, ALICE, room_id) == {ALICE, BOB, CAROL}
        newest = format_sync(SyncToken(history.id, ((1, world.committer.position),), 0))
        assert await members(world, ALICE, room_id, f"at={newest}") == {ALICE, BOB, CAROL}
        first = format_sync(SyncToken(history.id, ((1, 0),), 0))
        assert await members(world, ALICE, room_id, f"at={first}") == set()
        lost = format_sync(SyncToken(history.id, ((1, world.committer.position + 1),), 0))
        reply = await world.in_room(ALICE, "GET", room_id, "members", query=f"at={lost}")
        assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_POS")


async def test_joined_members_have_names_and_avatars(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        world.profiles[BOB] = {"avatar_url": "mxc://here.example/b"}
        room_id = await world.room(preset="public_chat", invite=[CAROL])
        await world.join(BOB, room_id)
        await world.join(DAVE, room_id)
        odd = {"membership": "join", "displayname": 7, "avatar_url": None}
        await world.put_state(DAVE, room_id, "m.room.member", odd, DAVE)
        reply = await world.in_room(ALICE, "GET", room_id, "joined_members")
        assert reply.body == {
            "joined": {
                ALICE: {"display_name": "Alice"},
                BOB: {"avatar_url": "mxc://here.example/b"},
                DAVE: {},
            }
        }


async def test_membership_written_as_state_keeps_its_content(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        joined = {"membership": "join", "displayname": "B", "x": 1}

        async def put(user: UserId, content: object, key: str) -> Any:
            return await world.put_state(user, room_id, "m.room.member", content, key)

        assert (await put(BOB, joined, BOB)).status == 200
        assert (await world.get_state(ALICE, room_id, "m.room.member", BOB)).body == joined
        renamed = {**joined, "displayname": "C"}
        assert (await put(BOB, renamed, BOB)).status == 200
        assert (await world.get_state(ALICE, room_id, "m.room.member", BOB)).body == renamed
        assert (await put(ALICE, {"membership": "invite"}, CAROL)).status == 200
        assert (await put(CAROL, {"membership": "leave"}, CAROL)).status == 200
        assert (await put(ALICE, {"membership": "ban"}, BOB)).status == 200
        assert (await put(BOB, {"membership": "join"}, BOB)).status == 403
        assert (await put(CAROL, {"membership": "ban"}, CAROL)).status == 403
        assert (await put(DAVE, {"membership": "ban"}, ALICE)).status == 403
        assert (await put(DAVE, {"membership": "invite"}, CAROL)).status == 403
        assert (await put(ALICE, {}, BOB)).errcode == "M_BAD_JSON"
        assert (await put(ALICE, {"membership": "ban"}, "odd")).errcode == "M_INVALID_PARAM"


async def test_a_changed_profile_reaches_all_joined_rooms(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        world.profiles[BOB] = {"displayname": "Bob"}
        rooms = [await world.room(preset="public_chat") for _ in range(3)]
        for room_id in rooms:
            await world.join(BOB, room_id)
        await world.put_state(
            BOB, rooms[1], "m.room.member", {"membership": "join", "x": 1, "reason": "r"}, BOB
        )
        await world.in_room(BOB, "POST", rooms[2], "leave")
        world.profiles[BOB] = {"displayname": "Robert", "avatar_url": "mxc://here.example/r"}
        await world.rooms.members.on_profile_changed(BOB)
        renamed = {"membership": "join", **world.profiles[BOB]}
        found = [
            (await world.get_state(ALICE, room_id, "m.room.member", BOB)).body for room_id in rooms
        ]
        assert found == [renamed, {**renamed, "x": 1}, {"membership": "leave"}]
        position = world.committer.position
        await world.rooms.members.on_profile_changed(BOB)
        assert world.committer.position == position


def test_both_filters_together_mean_either() -> None:
    assert MemberFilter().wants(None)
    assert MemberFilter("join").wants("join")
    assert not MemberFilter("join").wants("leave")
    assert MemberFilter("join", "leave").wants("invite")
    assert MemberFilter("join", "join").wants("join")
    assert not MemberFilter(not_membership="join").wants("join")
