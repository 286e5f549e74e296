"""Equal requests at once, through every door that changes who is in a room: they end as they do
one after the other.

The worlds' committers are held while the requests come in, so that each is staged on those before.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from federation.events.ids import EventId, RoomId, UserId
from federation.graph.building import EventDraft
from homeserver.engine.log.batch import Batch
from homeserver.engine.log.log_connection import Fault
from tests.homeserver.room_world import ALICE, BOB, CAROL, STRANGER, Reply, World, room_world

TIMES = 5
AFAR = RoomId("!afar:there.example")


@asynccontextmanager
async def held(world: World) -> AsyncIterator[Callable[[], None]]:
    """No commit ends before the returned function is called."""
    write, may_go = world.committer._connection.write, asyncio.Event()

    async def waiting(batch: Batch, fault: Fault | None) -> None:
        await may_go.wait()
        await write(batch, fault)

    world.committer._connection.write = waiting  # type: ignore[method-assign]
    try:
        yield may_go.set
    finally:
        world.committer._connection.write = write  # type: ignore[method-assign]


async def at_once(world: World, *requests: Awaitable[Reply]) -> list[Reply]:
    """The answers of requests that are all staged before the first is committed."""
    async with held(world) as go:
        asking = [asyncio.ensure_future(request) for request in requests]
        for _ in range(200):  # all of them get as far as they can without a commit
            await asyncio.sleep(0)
        go()
        return await asyncio.gather(*asking)


def statuses(replies: Sequence[Reply]) -> list[int]:
    return sorted(reply.status for reply in replies)


async def events_of(world: World, room_id: RoomId, event_type: str, key: str) -> int:
    """How many events the room's history has under a state key."""
    room = await world.engine.rooms.get(room_id)
    assert room is not None
    placed = await world.reader.page(room, start=(1_000, 0), backwards=True, limit=100)
    return sum(
        one.entry.event.key == (event_type, key)  # type: ignore[union-attr]
        for one in placed
        if one.entry.event.state_key is not None  # type: ignore[union-attr]
    )


async def _warm(world: World, room_id: RoomId) -> None:
    for user in (ALICE, BOB, CAROL):
        await world.engine.memberships.of(user)
    await world.engine.rooms.get(room_id)


@pytest.mark.parametrize("action", ["invite", "ban"])
async def test_equal_invites_and_bans_make_one_event(shared_database_url: str, action: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        await _warm(world, room_id)
        body = {"user_id": BOB, "reason": "r"}
        replies = await at_once(
            world,
            *(world.in_room(ALICE, "POST", room_id, action, body) for _ in range(TIMES)),
        )
        assert statuses(replies) == [200] * TIMES
        assert await events_of(world, room_id, "m.room.member", BOB) == 1


@pytest.mark.parametrize("reasons", ["same", "different"])
async def test_joins_at_once_make_one_event(shared_database_url: str, reasons: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await _warm(world, room_id)
        bodies = [{"reason": "r" if reasons == "same" else str(i)} for i in range(TIMES)]
        replies = await at_once(
            world, *(world.in_room(BOB, "POST", room_id, "join", body) for body in bodies)
        )
        assert statuses(replies) == [200] * TIMES
        assert await events_of(world, room_id, "m.room.member", BOB) == 1


async def test_equal_knocks_make_one_event(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        rule = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
        room_id = await world.room(initial_state=[rule])
        await _warm(world, room_id)
        replies = await at_once(
            world, *(world.call(BOB, "POST", f"/knock/{room_id}", {}) for _ in range(TIMES))
        )
        assert statuses(replies) == [200] * TIMES
        assert await events_of(world, room_id, "m.room.member", BOB) == 1


async def test_all_leaves_at_once_succeed_with_one_event(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        await _warm(world, room_id)
        replies = await at_once(
            world, *(world.in_room(BOB, "POST", room_id, "leave", {}) for _ in range(TIMES))
        )
        assert statuses(replies) == [200] * TIMES
        assert await events_of(world, room_id, "m.room.member", BOB) == 2


@pytest.mark.parametrize(("action", "refusal"), [("kick", "M_FORBIDDEN"), ("unban", "M_BAD_STATE")])
async def test_of_equal_kicks_and_unbans_the_first_alone_finds_the_user_there(
    shared_database_url: str, action: str, refusal: str
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room(preset="public_chat")
        await world.join(BOB, room_id)
        if action == "unban":
            await world.in_room(ALICE, "POST", room_id, "ban", {"user_id": BOB})
        await _warm(world, room_id)
        before = await events_of(world, room_id, "m.room.member", BOB)
        bodies = [{"user_id": BOB, "reason": str(i)} for i in range(TIMES)]
        replies = await at_once(
            world, *(world.in_room(ALICE, "POST", room_id, action, body) for body in bodies)
        )
        assert statuses(replies) == [200] + [403] * (TIMES - 1)
        assert {one.errcode for one in replies if one.status == 403} == {refusal}
        assert await events_of(world, room_id, "m.room.member", BOB) == before + 1


async def test_equal_state_makes_one_event_and_all_get_its_id(shared_database_url: str) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        await _warm(world, room_id)
        replies = await at_once(
            world,
            *(world.put_state(ALICE, room_id, "m.room.topic", {"topic": "t"}) for _ in range(5)),
        )
        assert statuses(replies) == [200] * TIMES
        assert len({reply.body["event_id"] for reply in replies}) == 1
        assert await events_of(world, room_id, "m.room.topic", "") == 1


async def test_a_repeat_is_not_answered_before_what_it_rests_on_is_stored(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        await _warm(world, room_id)
        async with held(world) as go:
            asking = [
                asyncio.ensure_future(
                    world.put_state(ALICE, room_id, "m.room.topic", {"topic": "t"})
                )
                for _ in range(2)
            ]
            for _ in range(200):
                await asyncio.sleep(0)
            assert [one.done() for one in asking] == [False, False]
            go()
            await asyncio.gather(*asking)


async def test_a_change_of_the_own_member_event_does_not_undo_a_leave(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        await world.in_room(ALICE, "POST", room_id, "invite", {"user_id": BOB})
        await world.join(BOB, room_id)
        await world.put_state(ALICE, room_id, "m.room.join_rules", {"join_rule": "public"})
        await _warm(world, room_id)

        async def renamed() -> Reply:
            world.profiles[BOB] = {"displayname": "New"}
            await world.rooms.members.on_profile_changed(BOB)
            return Reply(200, {})

        replies = await at_once(world, world.in_room(BOB, "POST", room_id, "leave", {}), renamed())
        assert statuses(replies) == [200, 200]
        member = await world.get_state(ALICE, room_id, "m.room.member", BOB)
        assert member.body["membership"] == "leave"


async def test_two_profile_changes_at_once_both_reach_the_member_event(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        await _warm(world, room_id)

        async def changed(key: str, value: str) -> Reply:
            world.profiles[ALICE] = {**world.profiles[ALICE], key: value}
            await world.rooms.members.on_profile_changed(ALICE)
            return Reply(200, {})

        await at_once(
            world, changed("displayname", "A"), changed("avatar_url", "mxc://here.example/a")
        )
        member = (await world.get_state(ALICE, room_id, "m.room.member", ALICE)).body
        assert (member["displayname"], member["avatar_url"]) == ("A", "mxc://here.example/a")


async def test_a_nick_set_while_a_leave_is_stored_is_a_join_of_its_own(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        await world.in_room(ALICE, "POST", room_id, "invite", {"user_id": BOB})
        await world.join(BOB, room_id)
        await _warm(world, room_id)
        nick = {"membership": "join", "displayname": "Nick"}
        left, named = await at_once(
            world,
            world.in_room(BOB, "POST", room_id, "leave", {}),
            world.put_state(BOB, room_id, "m.room.member", nick, BOB),
        )
        assert (left.status, named.status) == (200, 403)


async def test_equal_invites_of_another_servers_user_take_one_exchange(
    shared_database_url: str,
) -> None:
    async with room_world(shared_database_url) as world:
        room_id = await world.room()
        stored = asyncio.Event()

        async def invite(room_id: RoomId, draft: EventDraft) -> EventId:
            world.remote.asked.append(("invite",))
            await stored.wait()
            return (await world.engine.writer.send(room_id, draft)).event_id

        world.remote.invite = invite  # type: ignore[method-assign]
        asking = [
            asyncio.ensure_future(
                world.in_room(ALICE, "POST", room_id, "invite", {"user_id": STRANGER})
            )
            for _ in range(TIMES)
        ]
        await asyncio.sleep(0)
        stored.set()
        assert statuses(await asyncio.gather(*asking)) == [200] * TIMES
        assert world.remote.asked == [("invite",)]


@pytest.mark.parametrize("action", ["knock", "leave"])
async def test_equal_knocks_and_refusals_elsewhere_take_one_exchange(
    shared_database_url: str, action: str
) -> None:
    async with room_world(shared_database_url) as world:
        if action == "leave":
            await world.remote.invite_ours(AFAR, BOB, STRANGER)

        async def exchange(room_id: RoomId, user: UserId, servers: object, content: object) -> None:
            world.remote.asked.append((action,))
            await asyncio.sleep(0)
            await world.remote.set_ours(room_id, user, action)

        setattr(world.remote, action, exchange)
        path = f"/knock/{AFAR}" if action == "knock" else f"/rooms/{AFAR}/leave"
        query = "via=there.example" if action == "knock" else ""
        replies = await asyncio.gather(
            *(world.call(BOB, "POST", path, {}, query=query) for _ in range(TIMES))
        )
        assert statuses(replies) == [200] * TIMES
        assert world.remote.asked == [(action,)]
