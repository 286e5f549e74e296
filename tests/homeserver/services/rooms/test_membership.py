"""Who is in a room, and how they come and go, over the real engine."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from federation.errors import MatrixError
from federation.events.ids import RoomAlias, RoomId, ServerName, UserId
from homeserver import limits
from homeserver.services.rooms.directory import Target
from homeserver.services.rooms.membership import MemberDirectory, Membership, parse_servers
from tests.homeserver.room_world import ALICE, BOB, CAROL, STRANGER, World, room_world

AFAR = RoomId("!afar:there.example")
THERE = ServerName("there.example")


async def membership(world: World, room_id: str, user: UserId) -> dict[str, Any]:
    """A user's member event's content, as Alice sees it."""
    return dict((await world.get_state(ALICE, room_id, "m.room.member", user)).body)


async def act(
    world: World, user: UserId, room_id: str, action: str, target: str | None = None, **more: Any
) -> tuple[int, str]:
    """Status and error code of a membership request."""
    body = {"user_id": target, **more} if target is not None else more
    reply = await world.in_room(user, "POST", room_id, action, body)
    return reply.status, reply.errcode


OK = (200, "")
NO = (403, "M_FORBIDDEN")


async def test_an_invited_user_joins_with_profile_and_reason(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        world.profiles[BOB] = {"displayname": "Bob", "avatar_url": "mxc://here.example/b"}
        room_id = await world.room()
        assert await act(world, BOB, room_id, "join") == NO
        assert await act(world, ALICE, room_id, "invite", BOB, reason="come") == OK
        assert await membership(world, room_id, BOB) == {
            "membership": "invite",
            "reason": "come",
            **world.profiles[BOB],
        }
        assert await act(world, BOB, room_id, "join", reason="hi") == OK
        assert await membership(world, room_id, BOB) == {
            "membership": "join",
            "reason": "hi",
            **world.profiles[BOB],
        }
        assert (await world.call(BOB, "GET", "/joined_rooms")).body == {"joined_rooms": [room_id]}


async def test_joining_twice_changes_nothing(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        assert (await world.join(BOB, room_id)).body == {"room_id": room_id}
        position = world.committer.position
        assert (await world.join(BOB, room_id)).body == {"room_id": room_id}
        assert world.committer.position == position


async def test_a_room_is_joined_by_its_alias(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat", room_alias_name="pub")
        reply = await world.call(BOB, "POST", "/join/%23pub%3Ahere.example", b"")
        assert reply.body == {"room_id": room_id}
        assert (await world.call(BOB, "POST", "/join/%23no%3Ahere.example")).status == 404
        assert (await world.call(BOB, "POST", "/join/pub")).errcode == "M_INVALID_PARAM"


async def test_only_members_invite_and_nobody_invites_members(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        assert await act(world, CAROL, room_id, "invite", CAROL) == NO
        assert await act(world, ALICE, room_id, "invite", BOB) == NO
        assert await act(world, ALICE, "!no:here.example", "invite", BOB) == NO
        assert await act(world, ALICE, room_id, "invite", "odd") == (400, "M_INVALID_PARAM")
        assert await act(world, ALICE, room_id, "invite") == (400, "M_MISSING_PARAM")
        by_mail = await act(world, ALICE, room_id, "invite", medium="email")
        assert by_mail == (403, "M_THREEPID_DENIED")
        world.blocking.add(CAROL)
        assert await act(world, ALICE, room_id, "invite", CAROL) == (403, "M_INVITE_BLOCKED")


async def test_users_leave_and_may_come_back(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        assert await act(world, BOB, room_id, "leave") == NO
        assert await act(world, BOB, "!no:here.example", "leave") == (403, "M_FORBIDDEN")
        await world.join(BOB, room_id)
        assert await act(world, BOB, room_id, "leave", reason="bye") == OK
        assert await membership(world, room_id, BOB) == {"membership": "leave", "reason": "bye"}
        assert await act(world, BOB, room_id, "leave") == OK
        assert (await world.send(BOB, room_id, {})).status == 403
        assert await act(world, BOB, room_id, "join") == OK


async def test_the_last_user_may_leave_a_room_and_come_back(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        assert await act(world, ALICE, room_id, "leave") == OK
        assert await act(world, ALICE, room_id, "join") == OK
        assert world.remote.asked == []


async def test_an_invite_is_refused_after_the_inviter_left(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(invite=[BOB])
        assert await act(world, ALICE, room_id, "leave") == OK
        assert await act(world, BOB, room_id, "leave") == OK
        assert (await world.engine.memberships.of(BOB))[room_id].membership == "leave"
        assert world.remote.asked == []


async def test_a_room_is_forgotten_after_leaving(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        assert await act(world, BOB, room_id, "forget") == (404, "M_NOT_FOUND")
        await world.join(BOB, room_id)
        assert await act(world, BOB, room_id, "forget") == (400, "M_UNKNOWN")
        await act(world, BOB, room_id, "leave")
        assert (await world.in_room(BOB, "GET", room_id, "state")).status == 200
        assert await act(world, BOB, room_id, "forget") == OK
        assert await act(world, BOB, room_id, "forget") == OK
        assert (await world.in_room(BOB, "GET", room_id, "state")).status == 403
        assert await act(world, BOB, room_id, "join") == OK
        assert (await world.in_room(BOB, "GET", room_id, "state")).status == 200


async def test_kick_ban_and_unban(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        await world.join(CAROL, room_id)
        assert await act(world, BOB, room_id, "kick", CAROL) == NO
        assert await act(world, ALICE, room_id, "kick", CAROL, reason="rude") == OK
        assert await membership(world, room_id, CAROL) == {"membership": "leave", "reason": "rude"}
        assert await act(world, ALICE, room_id, "kick", CAROL) == NO
        assert await act(world, ALICE, room_id, "unban", CAROL) == (403, "M_BAD_STATE")
        assert await act(world, BOB, room_id, "ban", CAROL) == NO
        assert await act(world, ALICE, room_id, "ban", CAROL) == OK
        assert await act(world, CAROL, room_id, "join") == NO
        assert await act(world, ALICE, room_id, "kick", CAROL) == NO
        assert await act(world, CAROL, room_id, "leave") == NO
        assert (await membership(world, room_id, CAROL))["membership"] == "ban"
        assert await act(world, BOB, room_id, "unban", CAROL) == NO
        assert await act(world, ALICE, room_id, "unban", CAROL) == OK
        assert await act(world, CAROL, room_id, "join") == OK


async def test_guests_join_where_the_room_lets_them(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        world.guests.add(BOB)
        no_guests = (403, "M_GUEST_ACCESS_FORBIDDEN")
        room_id = await world.room(preset="public_chat")
        assert await act(world, BOB, room_id, "join") == no_guests
        assert await act(world, CAROL, room_id, "join") == OK
        await world.put_state(ALICE, room_id, "m.room.guest_access", {"guest_access": "can_join"})
        assert await act(world, BOB, room_id, "join") == OK
        await world.put_state(ALICE, room_id, "m.room.guest_access", {})
        assert await act(world, BOB, room_id, "join") == OK
        assert await act(world, BOB, AFAR, "join") == no_guests
        own = await world.put_state(BOB, AFAR, "m.room.member", {"membership": "join"}, BOB)
        assert own.status == 403
        assert [what for what, *_ in world.remote.asked] == ["guests"]


async def test_knocking_asks_to_be_invited(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        assert (await world.call(BOB, "POST", f"/knock/{room_id}")).status == 403
        await world.put_state(ALICE, room_id, "m.room.join_rules", {"join_rule": "knock"})
        reply = await world.call(BOB, "POST", f"/knock/{room_id}", {"reason": "please"})
        assert reply.body == {"room_id": room_id}
        assert await membership(world, room_id, BOB) == {"membership": "knock", "reason": "please"}
        assert await act(world, BOB, room_id, "join") == NO
        assert await act(world, BOB, room_id, "leave") == OK
        await world.call(BOB, "POST", f"/knock/{room_id}")
        assert await act(world, ALICE, room_id, "invite", BOB) == OK
        assert await act(world, BOB, room_id, "join") == OK


@pytest.mark.parametrize(
    ("version", "rule"),
    [
        ("8", "restricted"),
        ("10", "restricted"),
        ("10", "knock_restricted"),
        ("11", "restricted"),
        ("12", "restricted"),
        ("12", "knock_restricted"),
    ],
)
async def test_members_of_an_allowed_room_join_a_restricted_one(
    shared_database_url: str, version: str, rule: str
) -> None:
    async with room_world(shared_database_url) as world:
        club = await world.room(preset="public_chat")
        allow = [{"type": "m.room_membership", "room_id": club}]
        rules = {"join_rule": rule, "allow": allow}
        room_id = await world.room(
            room_version=version,
            initial_state=[{"type": "m.room.join_rules", "content": rules}],
        )
        assert await act(world, BOB, room_id, "join") == NO
        await world.join(BOB, club)
        assert await act(world, BOB, room_id, "join") == OK
        content = await membership(world, room_id, BOB)
        assert content["join_authorised_via_users_server"] == ALICE
        assert await act(world, ALICE, room_id, "invite", CAROL) == OK
        assert await act(world, CAROL, room_id, "join") == OK
        assert "join_authorised_via_users_server" not in await membership(world, room_id, CAROL)


async def test_nobody_vouches_where_nobody_of_ours_may_invite(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        club = await world.room(preset="public_chat")
        allow = [{"type": "m.room_membership", "room_id": club}]
        rules = {"join_rule": "restricted", "allow": allow}
        room_id = await world.room(
            initial_state=[{"type": "m.room.join_rules", "content": rules}],
            power_level_content_override={"invite": 101},
        )
        await world.join(BOB, club)
        assert await act(world, BOB, room_id, "join") == NO
        assert world.remote.asked == []


async def test_a_room_elsewhere_is_joined_through_the_named_servers(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        path = f"/join/{AFAR}"
        await world.call(ALICE, "POST", path, {"reason": "r"}, query="via=one.example&via=bad+name")
        await world.call(ALICE, "POST", path, query="server_name=two.example&via=here.example")
        await world.in_room(ALICE, "POST", AFAR, "join", query="server_name=two.example")
        content = {"membership": "join", "displayname": "Alice"}
        assert world.remote.asked == [
            ("join", AFAR, ALICE, ("one.example", THERE), {**content, "reason": "r"}),
            ("join", AFAR, ALICE, (THERE,), content),
            ("join", AFAR, ALICE, ("two.example", THERE), content),
        ]


async def test_who_asks_twice_joins_a_room_elsewhere_once() -> None:
    room = SimpleNamespace(joined_local=set(), view=SimpleNamespace(state={}), joined_servers={})
    asked: list[UserId] = []

    async def get(room_id: RoomId) -> Any:
        return room

    async def none_of(user_id: UserId) -> dict[Any, Any]:
        return {}

    async def join(room_id: Any, user_id: UserId, servers: Any, content: Any) -> None:
        asked.append(user_id)
        await asyncio.sleep(0)
        room.joined_local.add(user_id)

    async def nothing(_user_id: UserId, _room_id: RoomId) -> None:
        pass

    async def nobody(_user_id: UserId) -> None:
        pass

    async def is_blocked(user_id: UserId) -> bool:
        return False

    async def nothing_of(_user_id: UserId) -> dict[str, Any]:
        return {}

    engine = SimpleNamespace(
        rooms=SimpleNamespace(get=get), memberships=SimpleNamespace(of=none_of), writer=None
    )
    people = MemberDirectory(
        ServerName("here.example"), none_of, is_blocked, nothing, nobody, nothing_of
    )
    remote = SimpleNamespace(join=join)
    service = Membership(
        cast(Any, engine), cast(Any, None), people, cast(Any, None), cast(Any, remote)
    )
    await asyncio.gather(*(service.join(user, AFAR) for user in (ALICE, BOB, ALICE, ALICE)))
    assert sorted(asked) == [ALICE, BOB]


async def test_a_remote_alias_names_room_and_servers(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        alias = RoomAlias("#x:there.example")
        world.remote.aliases[alias] = Target(AFAR, (ServerName("one.example"),))
        reply = await world.call(ALICE, "POST", "/join/%23x%3Athere.example")
        assert reply.body == {"room_id": AFAR}
        assert world.remote.asked[0][3] == ("one.example", THERE)
        await world.call(BOB, "POST", "/knock/%23x%3Athere.example", {"reason": "k"})
        assert world.remote.asked[1][:2] == ("knock", AFAR)
        assert world.remote.asked[1][4] == {"membership": "knock", "reason": "k"}


async def test_a_knock_at_a_version_12_room_is_taken_back_where_it_was_taken(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = RoomId("!" + "A" * 43)
        await world.remote.set_ours(room_id, BOB, "knock", via="there.example")
        reply = await world.call(BOB, "POST", f"/rooms/{room_id}/leave", {})
        assert reply.status == 200
        assert world.remote.asked[0][:4] == ("leave", room_id, BOB, ("there.example",))


async def test_a_knock_elsewhere_can_be_repeated(shared_database_url: str) -> None:
    """Our server need not have learned that the first one was refused."""
    async with room_world(shared_database_url) as world:
        await world.remote.set_ours(AFAR, BOB, "knock")
        reply = await world.call(BOB, "POST", f"/knock/{AFAR}", {"reason": "again"})
        assert (reply.status, reply.body) == (200, {"room_id": AFAR})
        assert [asked[0] for asked in world.remote.asked] == ["knock"]


async def test_a_version_12_room_of_which_no_server_is_known_is_not_found(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        reply = await world.call(ALICE, "POST", "/join/!" + "A" * 43)
        assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


async def test_an_invite_from_elsewhere_is_accepted_through_the_inviter(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = RoomId("!" + "A" * 43)
        await world.remote.invite_ours(room_id, BOB, STRANGER)
        assert await act(world, BOB, room_id, "join") == OK
        assert world.remote.asked == [("join", room_id, BOB, (THERE,), {"membership": "join"})]


@pytest.mark.parametrize("is_reachable", [True, False])
async def test_an_invite_from_elsewhere_can_always_be_refused(
    shared_database_url: str, is_reachable: bool
) -> None:
    async with room_world(shared_database_url) as world:
        if not is_reachable:
            world.remote.error = MatrixError(504, "M_UNKNOWN", "away")
        await world.remote.invite_ours(AFAR, BOB, STRANGER)
        assert await act(world, BOB, AFAR, "leave", reason="no") == OK
        left = {"membership": "leave", "reason": "no"}
        assert world.remote.asked == [("leave", AFAR, BOB, (THERE,), left)]
        ended = (await world.engine.memberships.of(BOB))[AFAR].membership
        assert ended == ("invite" if is_reachable else "leave")  # the real exchange stores it


async def test_an_invite_of_another_servers_user_goes_by_their_server(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        assert await act(world, ALICE, room_id, "invite", STRANGER, reason="r") == OK
        content = {"membership": "invite", "reason": "r"}
        assert world.remote.asked == [("invite", room_id, STRANGER, content)]
        put = await world.put_state(
            ALICE, room_id, "m.room.member", {"membership": "invite"}, STRANGER
        )
        assert put.body == {"event_id": "$signed-elsewhere"}


def test_servers_to_go_through_are_limited_and_cleaned() -> None:
    assert parse_servers(["a.example", "not a name", "a.example"]) == ("a.example",)
    many = [f"s{number}.example" for number in range(limits.JOIN_SERVERS + 1)]
    assert len(parse_servers(many)) == limits.JOIN_SERVERS
