"""createRoom, from the handler to the database."""

import asyncio
from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.graph.building import EventDraft
from homeserver import limits
from tests.homeserver.room_world import ALICE, BOB, CAROL, STRANGER, World, room_world

VERSIONS = ("1", "2", "6", "10", "11", "12")


async def state_types(world: World, room_id: RoomId) -> list[str]:
    """Types of the room's state, as Alice sees it."""
    reply = await world.in_room(ALICE, "GET", room_id, "state")
    assert reply.status == 200
    return sorted(event["type"] for event in reply.body)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("preset", ["private_chat", "trusted_private_chat", "public_chat"])
async def test_every_preset_makes_a_room_in_every_version(
    shared_database_url: str, version: str, preset: str
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(
            preset=preset, room_version=version, invite=[BOB, CAROL], name="N", topic="T"
        )
        assert (":" in room_id) == (version != "12")
        types = await state_types(world, room_id)
        assert types.count("m.room.member") == 3
        create = await world.get_state(ALICE, room_id, "m.room.create")
        assert create.body["room_version"] == version
        assert (await world.get_state(ALICE, room_id, "m.room.name")).body == {"name": "N"}
        assert (await world.join(BOB, room_id)).body == {"room_id": room_id}
        power = (await world.get_state(BOB, room_id, "m.room.power_levels")).body
        assert (power["users"].get(BOB) == 100) == (
            preset == "trusted_private_chat" and version != "12"
        )


async def test_an_empty_body_makes_a_private_room(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        reply = await world.call(ALICE, "POST", "/createRoom", b"")
        assert reply.status == 200
        assert (await world.join(BOB, reply.body["room_id"])).errcode == "M_FORBIDDEN"


async def test_an_alias_is_made_with_the_room(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(room_alias_name="pub", visibility="public")
        found = await world.call(BOB, "GET", "/directory/room/%23pub%3Ahere.example")
        assert found.body == {"room_id": room_id, "servers": ["here.example"]}
        listed = await world.call(BOB, "GET", f"/directory/list/room/{room_id}")
        assert listed.body == {"visibility": "public"}
        content = (await world.get_state(ALICE, room_id, "m.room.canonical_alias")).body
        assert content == {"alias": "#pub:here.example"}


async def test_of_two_rooms_with_one_alias_one_is_made(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        replies = await asyncio.gather(
            *(world.call(ALICE, "POST", "/createRoom", {"room_alias_name": "x"}) for _ in range(2))
        )
        assert sorted(reply.status for reply in replies) == [200, 400]
        assert {reply.errcode for reply in replies} == {"", "M_ROOM_IN_USE"}
        assert len((await world.call(ALICE, "GET", "/joined_rooms")).body["joined_rooms"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({"room_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"preset": "party"}, 400, "M_BAD_JSON"),
        ({"invite": ["bob"]}, 400, "M_INVALID_PARAM"),
        ({"invite_3pid": [{"medium": "email"}]}, 400, "M_MISSING_PARAM"),
        ({"invite_3pid": [{}] * (limits.CREATE_ROOM_ADDRESSES + 1)}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": "a:b"}, 400, "M_INVALID_PARAM"),
        ({"initial_state": [{"type": "x", "content": {"f": 1.5}}]}, 400, "M_BAD_JSON"),
        (
            {"initial_state": [{"type": "m.room.create", "content": {}}]},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        (
            {"name": "N", "power_level_content_override": {"users": {ALICE: 10}}},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        (
            {"room_version": "12", "power_level_content_override": {"users": {ALICE: 100}}},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        ({"power_level_content_override": {"ban": "50"}}, 400, "M_INVALID_ROOM_STATE"),
        ({"name": "n" * 70_000}, 413, "M_TOO_LARGE"),
    ],
)
async def test_what_can_not_be_a_room_is_refused_and_leaves_nothing(
    shared_database_url: str, body: dict[str, Any], status: int, errcode: str
) -> None:
    async with room_world(shared_database_url) as world:
        reply = await world.call(ALICE, "POST", "/createRoom", body)
        assert (reply.status, reply.errcode) == (status, errcode)
        assert (await world.call(ALICE, "GET", "/joined_rooms")).body == {"joined_rooms": []}


async def test_users_of_other_servers_are_invited_by_their_servers(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(invite=[STRANGER, BOB], is_direct=True)
        [asked] = world.remote.asked
        assert asked == ("invite", room_id, STRANGER, {"membership": "invite", "is_direct": True})
        invited = await world.get_state(ALICE, room_id, "m.room.member", BOB)
        assert invited.body == {"membership": "invite", "is_direct": True}


async def test_a_refused_remote_invite_is_told_after_all_were_tried(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        world.remote.error = MatrixError(403, "M_INVITE_BLOCKED", "no")
        other = UserId("@other:" + ServerName("there.example"))
        reply = await world.call(ALICE, "POST", "/createRoom", {"invite": [STRANGER, other]})
        assert (reply.status, reply.errcode) == (403, "M_INVITE_BLOCKED")
        assert len(world.remote.asked) == 2


async def test_who_wants_no_invites_is_not_invited(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        world.blocking.add(BOB)
        reply = await world.call(ALICE, "POST", "/createRoom", {"invite": [BOB]})
        assert (reply.status, reply.errcode) == (403, "M_INVITE_BLOCKED")


async def test_initial_state_has_a_limit(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CREATE_ROOM_STATE", 2)
    state = [{"type": "x.y", "state_key": str(number), "content": {}} for number in range(3)]
    async with room_world(shared_database_url) as world:
        await world.room(initial_state=state[:2])
        refused = await world.call(ALICE, "POST", "/createRoom", {"initial_state": state})
        assert (refused.status, refused.errcode) == (400, "M_TOO_LARGE")


async def test_others_get_their_turn_while_a_large_room_is_made(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = [{"type": "x.y", "state_key": str(number), "content": {}} for number in range(200)]
    async with room_world(shared_database_url) as world:
        stager = world.engine.writer.stager
        stage, passes, staged = stager.stage_draft, 0, list[int]()

        async def count_passes() -> None:
            nonlocal passes
            while True:
                passes += 1
                await asyncio.sleep(0)

        async def noted(*args: Any) -> Any:
            staged.append(passes)
            return await stage(*args)

        monkeypatch.setattr(stager, "stage_draft", noted)
        counting = asyncio.ensure_future(count_passes())
        await world.room(initial_state=state)
        counting.cancel()
        assert len(staged) > 200
        assert max(staged.count(one) for one in set(staged)) <= limits.STAGED_AT_ONCE


async def test_only_some_remote_invites_are_under_way_at_once(
    shared_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INVITES_AT_ONCE", 2)
    async with room_world(shared_database_url) as world:
        under_way: list[int] = [0]
        seen: list[int] = []
        both = asyncio.Event()

        async def invite(room_id: RoomId, draft: EventDraft) -> EventId:
            under_way[0] += 1
            seen.append(under_way[0])
            if under_way[0] == limits.INVITES_AT_ONCE:
                both.set()
            await both.wait()
            under_way[0] -= 1
            return EventId("$signed")

        monkeypatch.setattr(world.remote, "invite", invite)
        await world.room(invite=[f"@u{number}:there.example" for number in range(5)])
        assert (len(seen), max(seen)) == (5, 2)
